"""What a run folder holds, read for the report; every file but two may be absent, and the page says so."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.evaluation import read_metrics
from nc_medfl.evaluation.tables import ALL_SITES, POOLED

SCHEMA_VERSION = 1
RUN_JSON = "run.json"

_ROUNDS = ("round", "site", "split", "finding", "metric", "value")
_COLLAPSE = ("round", "finding", "metric", "value", "reason")
_UPDATES = ("round", "site", "outcome", "reason", "n_samples")
_PRIVACY = ("round", "site", "quantity", "value", "reason")
_LABELS = ("site", "split", "n_images", "n_patients", "finding", "n_positive", "n_negative", "n_unknown")
_NUMBERS = frozenset(
    ("round", "value", "n_samples", "n_images", "n_patients", "n_positive", "n_negative", "n_unknown", "n_annotated")
)

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
    """

    run: dict[str, Any]
    metrics: pd.DataFrame
    rounds: pd.DataFrame | None
    collapse: pd.DataFrame | None
    updates: pd.DataFrame | None
    labels: pd.DataFrame | None
    absent: tuple[str, ...]
    privacy: pd.DataFrame | None = None

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
        return POOLED if (self.metrics["site"] == POOLED).any() else ALL_SITES

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
        UserError: if ``run.json`` or ``metrics.csv`` is missing, or a file is damaged or too new.
    """
    run = _read_run(folder / RUN_JSON)
    metrics = read_metrics(folder)
    chosen = metrics[(metrics["split"] == "test") & (metrics["group"] == "all")].copy()
    chosen["reason"] = [plain(text) for text in chosen["reason"]]
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
    )


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
        for name in _NUMBERS & set(table.columns):
            table[name] = pd.to_numeric(table[name].where(table[name] != "", None)).astype("float64")
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a table of numbers. Run the job again.") from error
    if "reason" in table:
        table["reason"] = [plain(text) for text in table["reason"]]
    return table
