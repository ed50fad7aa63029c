"""What a run folder holds, read for the report; every file but two may be absent, and the page says so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.evaluation import read_metrics
from nc_medfl.evaluation.tables import ALL_SITES, MACRO, MICRO, POOLED

SCHEMA_VERSION = 1
RUN_JSON = "run.json"

_ROUNDS = ("round", "site", "split", "finding", "metric", "value")
_COLLAPSE = ("round", "finding", "metric", "value", "reason")
_UPDATES = ("round", "site", "outcome", "reason", "n_samples")
_PRIVACY = ("round", "site", "quantity", "value", "reason")
_LABELS = ("site", "split", "n_images", "n_patients", "finding", "n_positive", "n_negative", "n_unknown")
_THRESHOLDS = ("site", "scope", "rule", "target", "finding", "threshold", "test_n_positive", "test_n_annotated")
_CALIBRATION = ("site", "method", "finding", "test_brier", "test_ece", "reason")
_RELIABILITY = ("site", "method", "finding", "n", "n_positive", "mean_score")
_FAIRNESS = ("site", "attribute", "finding", "metric", "worst_group", "worst", "best_group", "best", "gap", "reason")
_FEDERATION = ("finding", "metric", "value", "low", "high", "n_sites", "reason")
_COMPARISONS = (
    *("model_a", "model_b", "site", "finding", "metric", "value_a", "value_b", "difference", "low", "high"),
    *("p_holm", "n_positive", "n_annotated", "reason", "sentence"),
)
_HISTOGRAMS = ("site", "finding", "label", "low", "high", "count")
_TEXTS = frozenset(
    (
        *("run", "model", "site", "split", "scope", "rule", "method", "finding", "metric", "group", "outcome"),
        "precision",
        *("reason", "quantity", "attribute", "worst_group", "best_group", "label", "model_a", "model_b", "sentence"),
    )
)

#: Tables that an evaluation writes beside ``metrics.csv``, with the columns that the page needs.
EXTRA = {
    "thresholds": _THRESHOLDS,
    "calibration": _CALIBRATION,
    "reliability": _RELIABILITY,
    "fairness": _FAIRNESS,
    "score_histograms": _HISTOGRAMS,
    "federation": _FEDERATION,
    "comparisons": _COMPARISONS,
}

# Texts written elsewhere may name a file or hold a key; neither belongs on a page that is passed around.
_PATH = re.compile(
    r"(?<![\w<])(?:~|\.{1,2})?/[^\s'\",;:)]+|[\w.-]+(?:/[\w.-]+){2,}|\b[A-Za-z]:\\[^\s'\",;)]+|\\\\[^\s'\",;)]+"
)
_KEY = re.compile(r"\b[0-9a-f]{32,}\b")


@dataclass(frozen=True, eq=False)
class RunTables:
    """The content of a run folder.

    Attributes:
        run: ``run.json``.
        metrics: ``metrics.csv``, test split and group ``all``.
        rounds: ``rounds.csv`` or None; so too for ``collapse``, ``updates`` and ``labels``
            (``label_statistics.csv``).
        privacy: ``privacy.csv`` or None; runs before there was one have none, so it is never absent.
        absent: names of the files that are not there.
        groups: rows of ``metrics.csv`` on test of patients by sex, age and so on.
        others: rows of ``metrics.csv`` on test of models other than the one that the page is about.
        extra: ``thresholds``, ``calibration``, ``reliability``, ``fairness``, ``comparisons``,
            ``score_histograms`` and ``federation``, each where its file is there.
        minimum: counts from 1 to one less than this are withheld; 1 where none are.
        everywhere: label counts of all sites by finding, where ``labels`` holds one site's alone.
    """

    run: dict[str, Any]
    metrics: pd.DataFrame
    rounds: pd.DataFrame | None
    collapse: pd.DataFrame | None
    updates: pd.DataFrame | None
    labels: pd.DataFrame | None
    absent: tuple[str, ...]
    privacy: pd.DataFrame | None = None
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)
    others: pd.DataFrame = field(default_factory=pd.DataFrame)
    extra: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    minimum: int = 1
    everywhere: pd.DataFrame | None = None

    @property
    def findings(self) -> list[str]:
        """The vocabulary, in order."""
        return [str(name) for name in self.run.get("vocabulary", [])]

    @property
    def sites(self) -> list[str]:
        """The sites, in the run's order, then any others that the metrics name."""
        named = [str(name) for name in self.run.get("sites", [])]
        measured = [s for s in self.metrics["site"].unique() if s not in (ALL_SITES, POOLED)]
        return [*named, *(s for s in measured if s not in named)]

    @property
    def whole(self) -> str:
        """The site name of the federation's own rows: ``pooled``, or ``all`` where nothing was pooled."""
        found = set(self.metrics["site"])
        if POOLED not in found and ALL_SITES not in found and len(self.sites) == 1:
            return self.sites[0]
        return POOLED if POOLED in found else ALL_SITES

    def cell(self, site: str, finding: str, metric: str) -> dict[str, Any] | None:
        """One row of the metrics, or None."""
        return self._cells.get((site, finding, metric))

    def value(self, site: str, finding: str, metric: str) -> float:
        """The value of one row of the metrics, NaN where undefined or absent."""
        cell = self.cell(site, finding, metric)
        return float(cell["value"]) if cell else float("nan")

    def n_defined(self, site: str, metric: str) -> int:
        """Over how many findings a metric is defined at a site."""
        return sum(not np.isnan(self.value(site, finding, metric)) for finding in self.findings)

    @cached_property
    def _cells(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {str(key): value for key, value in row.items()} for row in self.metrics.to_dict("records")
        ]
        return {(r["site"], r["finding"], r["metric"]): r for r in rows}


def read_run_folder(folder: Path) -> RunTables:
    """Read what the report needs.

    Raises:
        UserError: if ``metrics.csv`` is missing, or a file is damaged or too new.
    """
    metrics = read_metrics(folder)
    path = folder / RUN_JSON
    # A table of anybody's predictions is evaluated without a run; then the metrics alone tell what there is.
    run = _read_run(path) if path.exists() else _run_of(metrics)
    test = metrics[metrics["split"] == "test"].copy()
    test["reason"] = [plain(text) for text in test["reason"]]
    mine = test["model"] == _model_of(run, test)
    whole = test["group"] == "all"
    chosen = test[mine & whole]
    files = {
        "rounds.csv": _ROUNDS,
        "collapse.csv": _COLLAPSE,
        "updates.csv": _UPDATES,
        "label_statistics.csv": _LABELS,
    }
    tables = {name: _read_table(folder / name, columns) for name, columns in files.items()}
    return RunTables(
        run,
        chosen,
        rounds=tables["rounds.csv"],
        collapse=tables["collapse.csv"],
        updates=tables["updates.csv"],
        labels=tables["label_statistics.csv"],
        absent=tuple(name for name, table in tables.items() if table is None),
        privacy=_read_table(folder / "privacy.csv", _PRIVACY),
        groups=test[mine & ~whole],
        others=test[~mine & whole],
        extra=_read_extra(folder),
    )


def _read_extra(folder: Path) -> dict[str, pd.DataFrame]:
    found = {name: read_extra(folder, name) for name in EXTRA}
    return {name: table for name, table in found.items() if table is not None and len(table)}


def read_extra(folder: Path, name: str) -> pd.DataFrame | None:
    """One of the tables of :data:`EXTRA`, None where it is not there.

    Raises:
        UserError: if it is damaged.
    """
    return _read_table(folder / f"{name}.csv", EXTRA[name])


def _run_of(metrics: pd.DataFrame) -> dict[str, Any]:
    """What ``run.json`` would say, as far as the metrics themselves tell it."""
    if metrics.empty:
        return {}
    findings = [str(name) for name in metrics["finding"].unique() if name not in (MACRO, MICRO)]
    return {
        "name": str(metrics["run"].iloc[0]) or "evaluation",
        "method": str(metrics["model"].iloc[0]),
        "vocabulary": findings,
        "evaluated_alone": True,
    }


def _model_of(run: Mapping[str, Any], test: pd.DataFrame) -> str:
    """The model that the page is about: the run's own method, else the first that was measured."""
    models = list(dict.fromkeys(test["model"]))
    method = str(run.get("method"))
    return method if method in models or not models else str(models[0])


def plain(text: object) -> str:
    """A text without paths and keys."""
    return _KEY.sub("(key)", _PATH.sub("(path)", str(text)))


def _read_run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Give the folder of a run.") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged. Run the job again.") from error
    if not isinstance(run, dict) or run.get("schema_version", SCHEMA_VERSION) > SCHEMA_VERSION:
        raise UserError(f"{path}: not a run that this version knows. Upgrade nc_medfl.")
    return run


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        missing = [name for name in columns if name not in table]
        if missing:
            raise UserError(f"{path}: no column '{missing[0]}'. Run the job again.")
        for name in [str(column) for column in table.columns if column not in _TEXTS]:
            table[name] = pd.to_numeric(table[name].where(table[name] != "", None)).astype("float64")
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a table of numbers. Run the job again.") from error
    if "reason" in table:
        table["reason"] = [plain(text) for text in table["reason"]]
    return table
