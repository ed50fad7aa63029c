"""What the page says in words: the result in a few sentences, and what the run was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.report.cells import decimal, is_rough
from nc_medfl.report.reading import RunTables, plain

METHODS = {
    "fednca": "FedNCA-ML (shared simplex frame, one feature per finding)",
    "fedavg": "plain baseline (FedAvg: pooled features, linear head)",
    "fedprox": "FedProx (the plain baseline with a pull towards the global model)",
    "fedbn": "FedBN (the plain baseline; batch normalisation stays at each site)",
    "moon": "MOON (the plain baseline with a contrast between models)",
    "fedetf": "FedETF (pooled features before a fixed simplex)",
    "fednh": "FedNH (pooled features before smoothed class means)",
    "scaffold": "SCAFFOLD (the plain baseline with control variates)",
}


@dataclass(frozen=True)
class Headline:
    """The top of the page.

    Attributes:
        value: the main number, or that there is none.
        interval: its interval, or nothing.
        coverage: over how many findings it is.
        label: what the number is.
        facts: label and text of the other cards.
        sentences: the result in plain words.
    """

    value: str
    interval: str
    coverage: str
    label: str
    facts: list[tuple[str, str, str]]
    sentences: list[str]


def headline(data: RunTables, only: str | None = None) -> Headline:
    """The top of the page, in numbers and words: of all sites, or of the one whose page it is."""
    place = only or data.whole
    row = data.cell(place, "macro", "auc")
    value = float(row["value"]) if row else float("nan")
    interval = ""
    if row and not np.isnan(row["low"]):
        interval = f"95% interval {decimal(row['low'])} to {decimal(row['high'])}"
    what = {"pooled": "all test patients pooled", "all": "mean over the sites' own test patients"}.get(place, place)
    return Headline(
        value="undefined" if np.isnan(value) else decimal(value),
        interval=interval,
        coverage=f"over {data.n_defined(place, 'auc')} of {len(data.findings)} findings",
        label=f"Test macro AUC, {what}",
        facts=_facts(data, place),
        sentences=[text for text in _sentences(data, place, value) if text],
    )


def _sentences(data: RunTables, place: str, value: float) -> list[str]:
    own = place not in ("all", "pooled")
    return [
        _meaning(value),
        "" if own else _range_of_sites(data),
        _range_of_findings(data, place),
        _like_guessing(data, place),
        _at_thresholds(data, place),
        _calibration(data, place),
        _widest_gap(data, place),
    ]


def _like_guessing(data: RunTables, place: str) -> str:
    cells = {name: data.cell(place, name, "auc") for name in data.findings}
    below = [name for name, cell in cells.items() if cell and cell["low"] <= 0.5]
    return f"For all we know no better than guessing: {', '.join(below)}." if below else ""


def _at_thresholds(data: RunTables, place: str) -> str:
    found, spared = (data.value(place, "macro", name) for name in ("sensitivity", "specificity"))
    if np.isnan(found) or np.isnan(spared):
        return ""
    return (
        f"At its thresholds it finds {found:.0%} of the images with a finding and leaves {spared:.0%} of those without "
        "alone, averaged over findings; what other thresholds would do is below."
    )


def _calibration(data: RunTables, place: str) -> str:
    error = data.value(place, "macro", "ece")
    if np.isnan(error):
        return ""
    return f"Scores miss the true share of images with the finding by {100 * error:.1f} percentage points on average."


def _widest_gap(data: RunTables, place: str) -> str:
    """The largest gap in macro AUC between groups of patients, and whether it may be chance."""
    table = data.extra.get("fairness")
    if table is None:
        return ""
    rows = table[(table["finding"] == "macro") & (table["metric"] == "auc") & (table["site"] == place)]
    rows = rows[(rows["attribute"] != "site") & rows["gap"].notna()]
    if rows.empty:
        return ""
    row = rows.sort_values("gap", kind="stable").iloc[-1]
    worst, best = (str(row[name]).replace("=", " ", 1) for name in ("worst_group", "best_group"))
    ends = [float(row.get(name, np.nan)) for name in ("gap_low", "gap_high")]
    if np.isnan(ends).any():
        doubt = "it has no interval, so how much of that is chance can't be told"
    else:
        doubt = f"95% interval of the gap {decimal(ends[0])} to {decimal(ends[1])}"
        doubt += ", so it may be chance" if ends[0] <= 0 else ""
    return (
        f"The widest gap between groups of patients is that between {worst} ({decimal(row['worst'])}) and "
        f"{best} ({decimal(row['best'])}): {doubt}."
    )


def aligned(collapse: pd.DataFrame) -> str:
    """Which findings don't point at their vertex at one round.

    Args:
        collapse: rows of ``collapse.csv`` of that round.
    """
    rows = collapse[(collapse["metric"] == "nc3") & (collapse["finding"] != "all")]
    if "site" in rows:
        rows = rows[rows["site"].isin(["all", ""])]
    rows = rows[rows["value"].notna()]
    if rows.empty:
        return ""
    off = [
        str(name) for name, reason in zip(rows["finding"], rows["reason"], strict=True) if "does not align" in reason
    ]
    if not off:
        return "Every finding's mean points at its own vertex (cosine of 0.5 or more)."
    return f"Not aligned with their vertex (cosine below 0.5): {', '.join(off)}; {len(rows) - len(off)} others are."


def interval_kind(run: Mapping[str, Any]) -> str:
    """How the ends of intervals are read from the resamples."""
    kind = ((run.get("settings") or {}).get("evaluation") or {}).get("interval", "percentile")
    return {"percentile": "percentile", "bca": "bias-corrected and accelerated (BCa)"}.get(str(kind), str(kind))


def _facts(data: RunTables, place: str) -> list[tuple[str, str, str]]:
    facts = []
    if place not in ("all", "pooled") and place != data.whole:
        everywhere = data.value(data.whole, "macro", "auc")
        if not np.isnan(everywhere):
            facts.append(("All sites together", decimal(everywhere), "macro AUC, all test patients"))
    mean = data.value("all", "macro", "auc")
    if place == data.whole and place != "all" and not np.isnan(mean):
        facts.append(("Mean over sites", decimal(mean), "macro AUC, every site counts the same"))
    best = data.run.get("best_round")
    if best is not None:
        score = _validation_score(data, int(best))
        chosen = f", {decimal(score)}" if score is not None else ""
        facts.append(
            (
                "Chosen round",
                f"{best} of {data.run.get('rounds', '?')}",
                f"highest mean macro AUC on validation{chosen}",
            )
        )
    row = data.cell(place, "micro", "auc")
    if row and row["n_annotated"]:
        positive = "" if np.isnan(row["n_positive"]) else f", {int(row['n_positive']):,} positive"
        facts.append(("Test labels", f"{int(row['n_annotated']):,}", f"known pairs of image and finding{positive}"))
    if data.updates is not None:
        lost = int((data.updates["outcome"] != "accepted").sum())
        facts.append(("Updates", f"{len(data.updates):,}", f"{lost} of them not used" if lost else "all taken"))
    return facts


def _validation_score(data: RunTables, at_round: int) -> float | None:
    if data.rounds is None:
        return None
    table = data.rounds
    here = table[
        (table["round"] == at_round)
        & (table["site"] == "all")
        & (table["split"] == "val")
        & (table["finding"] == "macro")
        & (table["metric"] == "auc")
    ]["value"]
    return float(here.iloc[0]) if len(here) and not np.isnan(here.iloc[0]) else None


def _meaning(value: float) -> str:
    if np.isnan(value):
        return "No finding has both positives and negatives in the test split, so no AUC is defined."
    return (
        f"Of an image with a finding and one without, the model gives the first the higher score in {value:.0%} of "
        "the pairs, averaged over findings; guessing gives 50%."
    )


def _range_of_sites(data: RunTables) -> str:
    values = {site: data.value(site, "macro", "auc") for site in data.sites}
    defined = {site: value for site, value in values.items() if not np.isnan(value)}
    if len(defined) < 2:
        return ""
    low, high = min(defined, key=lambda s: defined[s]), max(defined, key=lambda s: defined[s])
    rows = [data.cell(site, "macro", "auc") for site in (low, high)]
    told = all(row is not None and not np.isnan(float(row["low"])) for row in rows)
    chance = "their intervals below say how much" if told else "not all have an interval to say how much"
    return (
        f"Between sites it runs from {decimal(defined[low])} at {low} to {decimal(defined[high])} at {high}; {chance} "
        "of that may be chance."
    )


def _range_of_findings(data: RunTables, place: str) -> str:
    values = {name: data.value(place, name, "auc") for name in data.findings}
    defined = {name: value for name, value in values.items() if not np.isnan(value)}
    if len(defined) < 2:
        return ""
    low, high = min(defined, key=lambda n: defined[n]), max(defined, key=lambda n: defined[n])
    missing = [name for name in data.findings if name not in defined]
    text = f"Told best: {high} ({decimal(defined[high])}); worst: {low} ({decimal(defined[low])})."
    return f"{text} Undefined here: {', '.join(missing)}." if missing else text


def rare_findings(data: RunTables) -> list[str]:
    """Findings whose interval is rough for want of positives or negatives."""
    out = []
    for name in data.findings:
        row = data.cell(data.whole, name, "auc")
        if row and is_rough(row):
            out.append(name)
    return out


def floor_example(data: RunTables) -> str:
    """The F1 floor of this run, in a sentence."""
    f1, floor = (data.value(data.whole, "macro", name) for name in ("f1", "f1_all_positive"))
    if np.isnan(floor):
        return ""
    if np.isnan(f1):
        return f"Here the floor is {decimal(floor)} on average."
    return f"Here the mean F1 is {decimal(f1)} and the floor {decimal(floor)}."


def threshold_sentence(run: Mapping[str, Any]) -> str:
    """How thresholds were chosen."""
    settings = run.get("settings") or {}
    rule = (settings.get("evaluation") or {}).get("threshold", "")
    if rule == "half":
        return "Every finding has the threshold 0.5, so what depends on it measures calibration first."
    if rule == "fixed":
        return (
            "Every finding has the same threshold, fixed beforehand, so what depends on it measures calibration first."
        )
    how = {
        "youden": ", where sensitivity plus specificity is largest",
        "f1": ", where F1 is largest",
        "sensitivity": ", the highest that finds the wanted share of positives",
        "ppv": ", the one that finds most while the wanted share of alarms is right",
    }.get(rule, "")
    return (
        f"Each finding has its own, chosen on validation images{how}; never on the test images that are measured here. "
        "Pooled numbers have thresholds of their own, chosen on all sites' validation images."
    )


def when(run: Mapping[str, Any]) -> str:
    """Start, end and duration."""
    start, end = _moment(run.get("started")), _moment(run.get("ended"))
    if start is None:
        return "start not recorded"
    text = f"{start:%Y-%m-%d %H:%M} UTC"
    if end is None or end < start:
        return text
    minutes, seconds = divmod(round((end - start).total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    spent = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"{text}, took {spent}"


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings as ``key.path`` and text; a file's path is the machine's own business and isn't shown."""
    out: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out += flat_settings(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", _setting(value)))
    return out


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return "a file (not named here)"
    return plain(value)


def short_fingerprints(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The first twelve characters of each fingerprint."""
    return [(str(name), str(value)[:12]) for name, value in dict(run.get("fingerprints") or {}).items()]


def update_sentence(updates: pd.DataFrame) -> str:
    """How many updates came, and how many were taken."""
    outcomes = updates["outcome"].value_counts()
    other = [f"{int(n)} {name}" for name, n in sorted(outcomes.items()) if name != "accepted"]
    lost = ", ".join(other) if other else "none refused, late or missing"
    accepted = int(outcomes.get("accepted", 0))
    return f"{len(updates):,} updates from {updates['site'].nunique()} sites: {accepted:,} accepted, {lost}."
