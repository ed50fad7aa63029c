"""What a job without training leaves in its run folder, from what the server left in its results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nc_medfl.config import JobSettings
from nc_medfl.data.store import write_json
from nc_medfl.errors import UserError
from nc_medfl.evaluation import as_table, mean_over_sites, write_metrics
from nc_medfl.evaluation.decide import write_decisions
from nc_medfl.evaluation.groups import fairness_table
from nc_medfl.evaluation.result_tables import FAIRNESS_CSV
from nc_medfl.federation import keys
from nc_medfl.federation.label_counts import PAIRS_OF, table, together_table
from nc_medfl.federation.run_folder import LABEL_STATISTICS, copy_federation_table, write_table
from nc_medfl.federation.site_tables import tables_of
from nc_medfl.training.model import load_model

LABELS_JSON = "label_statistics.json"
COOCCURRENCE = "label_cooccurrence.csv"


@dataclass(frozen=True)
class Outcome:
    """What to tell whoever ran the job.

    Attributes:
        lines: for a person.
        payload: JSON values.
        files: written into the run folder.
        fingerprints: for its ``run.json``.
        has_metrics: whether ``metrics.csv`` is there, so that a report can be made.
    """

    lines: list[str]
    payload: dict[str, Any]
    files: list[Path]
    fingerprints: dict[str, str] = field(default_factory=dict)
    has_metrics: bool = False


def complete(settings: JobSettings, *, server_is_here: bool = False) -> JobSettings:
    """The settings of a job, with what its model says of itself where the file can be read here.

    Args:
        settings: of any kind; only those of ``evaluate`` change. Its name and how it measures stay the job's.
        server_is_here: the server will run on this machine, so that the file must be here too.

    Raises:
        UserError: if it names no model, or the file is no model, or isn't there and must be.
    """
    if settings.kind != "evaluate":
        return settings
    if settings.model is None:
        raise UserError("model: no model named. Add --set model=PATH with a run's model_best.pt.")
    path = Path(settings.model).resolve()
    if not (path.is_file() or server_is_here):
        return settings  # it may lie on the server's disk alone, which says so if it doesn't
    _, trained, _ = load_model(path)
    own = ("name", "kind", "evaluation", "federation", "tracking")
    return trained.model_copy(update={**{name: getattr(settings, name) for name in own}, "model": str(path)})


def outcome_of(settings: JobSettings, results: Path, out: Path) -> Outcome:
    """Fill the run folder of a job that has ended.

    Args:
        settings: the job's.
        results: where the server left its results.
        out: the run folder.
    """
    makers: dict[str, Callable[[JobSettings, Path, Path], Outcome]] = {
        "label_statistics": _label_statistics,
        "evaluate": _evaluate,
    }
    return makers[settings.kind](settings, results, out)


def _label_statistics(_settings: JobSettings, results: Path, out: Path) -> Outcome:
    content = json.loads((results / LABELS_JSON).read_text(encoding="utf-8"))
    sites, findings = content["sites"], content["findings"]
    rows = table(sites)
    write_json(out / LABELS_JSON, content)
    write_table(out / LABEL_STATISTICS, rows)
    write_table(out / COOCCURRENCE, together_table(sites, findings))
    files = [out / name for name in (LABEL_STATISTICS, COOCCURRENCE, LABELS_JSON)]
    payload = {"sites": list(sites), "absent": content["absent"], "rows": [r for r in rows if r["site"] == "all"]}
    return Outcome(_summary(sites, [*findings], content["absent"]), payload, files)


def _summary(sites: dict[str, Any], findings: list[str], absent: dict[str, str]) -> list[str]:
    """A line a finding: its positives in the training split, and at how many sites it is there, absent or withheld."""
    lines = [f"training split, {len(sites)} sites; sums are of what is told"]
    for index, finding in enumerate(findings):
        told = [
            next(r for r in counts["rows"] if (r["split"], r["finding"]) == (PAIRS_OF, finding))["n_positive"]
            for counts in sites.values()
        ]
        withheld, none = sum(n is None for n in told), sum(n == 0 for n in told)
        where = f"at {len(told) - withheld - none} sites, none at {none}, withheld at {withheld}"
        lines.append(f"  {findings[index]:<28} {sum(n or 0 for n in told):>8}  {where}")
    return [*lines, *(f"  {site}: no counts ({reason})" for site, reason in absent.items())]


def _evaluate(settings: JobSettings, results: Path, out: Path) -> Outcome:
    rows = as_table(json.loads((results / keys.SITE_METRICS).read_text(encoding="utf-8"))["rows"])
    whole: pd.DataFrame = pd.concat([rows, mean_over_sites(rows)], ignore_index=True)
    tables = {**tables_of(results), FAIRNESS_CSV: fairness_table(whole)}
    files = [*write_metrics(whole, out), *write_decisions(tables, out), *copy_federation_table(results, out)]
    prints: dict[str, str] = {}
    if settings.model and Path(settings.model).is_file():
        prints = dict(load_model(Path(settings.model))[2]["fingerprints"])
    chosen = whole[(whole["finding"] == "macro") & (whole["metric"] == "auc") & (whole["group"] == "all")]
    macro = {str(r["site"]): None if r["value"] != r["value"] else r["value"] for r in chosen.to_dict("records")}
    lines = ["test macro AUC", *(f"  {site:<20} {_number(value)}" for site, value in macro.items())]
    return Outcome(lines, {"macro_auc": macro}, files, prints, has_metrics=True)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
