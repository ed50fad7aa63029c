"""The model card: what the model is for, from what it was made, how well it does, and what it can't do.

The sections follow Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019). Everything is taken from
``model.json``, so the card says nothing that the file does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nc_medfl.inference.description import ModelDescription, Result

_WITHHELD = "under 5"
_TITLES = {
    "fednca": "FedNCA-ML",
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "fedbn": "FedBN",
    "scaffold": "SCAFFOLD",
    "moon": "MOON",
    "fedetf": "FedETF",
    "fednh": "FedNH",
}


def card_of(description: ModelDescription) -> str:
    """The card as Markdown."""
    d = description
    title = _TITLES.get(d.method, d.method)
    parts = [
        f"# Model card: {_safe(d.name)}\n\n"
        f"A {title} model for {len(d.findings)} findings on frontal chest radiographs, trained across "
        f"{len(d.training.get('sites', [])) or 'several'} sites without their images leaving them.",
        "## Intended use\n\nResearch on federated learning. **Not a medical device**: not cleared or certified by "
        "anybody, and not to be used for the care of a patient. A probability is no diagnosis.",
        _data(d),
        _settings(d),
        _results(d),
        _thresholds(d),
        _limits(d),
        _identity(d),
    ]
    return "\n\n".join(parts) + "\n"


def _data(d: ModelDescription) -> str:
    head = "## Training data\n\n"
    if not d.data:
        return head + "The sites' counts were not told to whoever made this file."
    table = _table(
        ("site", "split", "images", "patients"),
        ([s.site, s.split, _count(s.n_images), _count(s.n_patients)] for s in d.data),
    )
    sites = sorted({s.site for s in d.data})
    by_site = {s.site: s.positives for s in d.data if s.split == "train"}
    findings = _table(
        ("positives in training", *sites),
        ([f, *(_count(by_site.get(site, {}).get(f)) for site in sites)] for f in d.findings),
    )
    return f"{head}{table}\n\nCounts of 1 to 4 are told as '{_WITHHELD}'.\n\n{findings}"


def _settings(d: ModelDescription) -> str:
    settings = d.training.get("settings", {})
    training = settings.get("training", {})
    size, prep = d.preprocessing.image_size, d.preparation
    rows = [
        ["method", d.method],
        ["network", f"{d.network.kind}, {d.network.backbone}, {d.network.norm} norm"],
        ["rounds trained", str(d.training.get("rounds_trained", "unknown"))],
        ["seed", str(settings.get("seed", "unknown"))],
        ["optimiser", f"{training.get('optimizer', '?')}, lr {training.get('lr', '?')}"],
        ["stored images", f"{prep.size} x {prep.size}, reader {prep.reader}"],
        ["network reads", f"{size} x {size}, {d.network.in_channels} channel(s)"],
    ]
    return "## Settings\n\n" + _table(("setting", "value"), rows) + "\n\nAll of them stand in `model.json`."


def _results(d: ModelDescription) -> str:
    head = "## Results on test patients\n\n"
    if not d.results:
        return head + "None were measured when this file was made."
    macro = [r for r in d.results if r.finding == "macro"]
    table = _table(
        ("site", "metric", "macro value (95% interval)", "remark"),
        ([r.site, r.metric, _interval(r), r.reason] for r in macro),
    )
    chosen = "pooled" if any(r.site == "pooled" for r in d.results) else "all"
    single = [r for r in d.results if r.metric == "auc" and r.site == chosen and r.finding not in ("macro", "micro")]
    findings = _table(
        ("finding", f"AUC ({chosen})", "positives", "annotated"),
        ([r.finding, _interval(r), _count(r.n_positive), str(r.n_annotated)] for r in single),
    )
    note = "`pooled` puts all patients together, `all` is the mean over sites; intervals resample patients."
    return f"{head}{note}\n\n{table}\n\n{findings}"


def _interval(result: Result) -> str:
    if result.value is None:
        return f"undefined ({result.reason})" if result.reason else "undefined"
    if result.low is None or result.high is None:
        return f"{result.value:.3f}"
    return f"{result.value:.3f} ({result.low:.3f} to {result.high:.3f})"


def _thresholds(d: ModelDescription) -> str:
    head = "## Thresholds and calibration\n\n"
    if not d.operating_points:
        return head + "None: this file calls nothing present or absent."
    sites = list(d.operating_points)
    table = _table(
        ("finding", *sites),
        ([f, *(_threshold(d.operating_points[s].thresholds[c]) for s in sites)] for c, f in enumerate(d.findings)),
    )
    calibration = _table(
        ("site", "rule", "calibration"),
        ([s, p.rule, p.calibration] for s, p in d.operating_points.items()),
    )
    return f"{head}Chosen on validation patients, on the scale of the network's own scores.\n\n{table}\n\n{calibration}"


def _threshold(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _limits(d: ModelDescription) -> str:
    lines = [
        "Trained and tested on the sites above; at another site it may do worse, and nothing here says how much.",
        "Labels come from each site's own table; where they were read off reports they carry the reports' errors.",
        "An attention map shows where the model looked, which need not be why it answered.",
        "Findings that are not named above are not looked for.",
    ]
    if d.reference is None:
        lines.append("It holds no reference of its training images, so it can't tell an image unlike them.")
    else:
        r = d.reference
        lines.append(
            f"An image whose distance from the training images is above {r.limit:.2f} is flagged; {r.quantile:.0%} of "
            f"{r.measured_on} training and validation images lie at or below it. What is not flagged may "
            "still be unlike them."
        )
    weak = [r for r in d.results if r.metric == "auc" and r.site in ("pooled", "all") and r.value is None]
    if weak:
        lines.append("Never tested, for want of patients: " + ", ".join(sorted({r.finding for r in weak})) + ".")
    return "## Limits\n\n" + "\n".join(f"- {_safe(line)}" for line in lines)


def _identity(d: ModelDescription) -> str:
    rows = [["nc_medfl", d.package_version], ["model.json", d.fingerprint], ["weights", d.weights_sha256]]
    rows += [[name, value] for name, value in sorted(d.fingerprints.items()) if value]
    return "## Fingerprints\n\n" + _table(("what", "SHA-256 or version"), rows)


def _count(value: int | None) -> str:
    return _WITHHELD if value is None else str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(columns), "|" + " --- |" * len(columns), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_safe(cell) for cell in cells) + " |"


def _safe(text: str) -> str:
    """Text that can't end a table cell, start markup or hold HTML."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    for mark in ("\\", "|", "<", ">", "`", "[", "]", "!"):
        flat = flat.replace(mark, {"<": "&lt;", ">": "&gt;"}.get(mark, "\\" + mark))
    return flat
