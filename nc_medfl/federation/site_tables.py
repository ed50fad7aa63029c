"""The tables that come with a site's final test: what the server makes of the text, and the files it leaves.

Thresholds and what they cost, calibration before and after, points of calibration curves: numbers that a site worked
out at home. They are a stranger's text, so they are read as such.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nc_medfl.config import JobSettings
from nc_medfl.data.store import write_json
from nc_medfl.evaluation.calibrated import CALIBRATION_COLUMNS, RELIABILITY_COLUMNS
from nc_medfl.evaluation.result_tables import CALIBRATION_CSV, RELIABILITY_CSV, THRESHOLDS_CSV
from nc_medfl.evaluation.score_histograms import COLUMNS as HISTOGRAM_COLUMNS
from nc_medfl.evaluation.score_histograms import SCORE_HISTOGRAMS_CSV
from nc_medfl.evaluation.threshold_costs import THRESHOLD_COLUMNS
from nc_medfl.federation import answers, keys
from nc_medfl.federation.refusal import RefusedUpdate
from nc_medfl.federation.score_counts import read_counts
from nc_medfl.labels import load_vocabulary
from nc_medfl.metrics.histograms import EDGES, Runs

Row = dict[str, Any]

#: By name: the file, its columns, and what no two rows of a site have in common.
TABLES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "thresholds": (THRESHOLDS_CSV, THRESHOLD_COLUMNS, ("scope", "rule", "finding")),
    "calibration": (CALIBRATION_CSV, CALIBRATION_COLUMNS, ("method", "finding")),
    "reliability": (RELIABILITY_CSV, RELIABILITY_COLUMNS, ("method", "finding", "bin")),
}
_HISTOGRAMS = "score_histograms"
_WHAT = "tables of thresholds and calibration"
_BY_SERVER = ("run", "model")
_WORDS = ("site", "scope", "rule", "method", "finding")
_MOST_ROWS = 100


def read_tables(meta: Mapping[str, Any], findings: Collection[str]) -> dict[str, list[Row]]:
    """A site's tables, checked; empty where it sent none.

    Raises:
        RefusedUpdate: if they are malformed or speak for another site.
    """
    text = meta.get(keys.TABLES)
    if text is None:
        return {}
    content = answers.parsed(text, _WHAT)
    if not isinstance(content, dict) or not set(content) <= set(TABLES):
        raise RefusedUpdate(f"its {_WHAT} are others than the known")
    site, names = str(meta.get("client_name")), {*findings, *answers.OVERALL}
    return {name: _checked(name, rows, site, names) for name, rows in content.items()}


def _checked(name: str, rows: Any, site: str, findings: Collection[str]) -> list[Row]:
    _, columns, key = TABLES[name]
    wanted = set(columns) - set(_BY_SERVER)
    if not isinstance(rows, list) or len(rows) > _MOST_ROWS * len(findings):
        raise RefusedUpdate(f"its {_WHAT} are no list of rows, or too long")
    checked = []
    for given in rows:
        if not isinstance(given, dict) or set(given) != wanted:
            raise RefusedUpdate(f"its {_WHAT} have missing or unknown columns")
        row = {column: _cell(column, value) for column, value in given.items()}
        if row["finding"] not in findings:
            raise RefusedUpdate(f"its {_WHAT} name a finding that is not in the vocabulary")
        if row["site"] != site:
            raise RefusedUpdate(f"its {_WHAT} are of another site")
        checked.append(row)
    answers.check_once(checked, key, _WHAT)
    return checked


def _cell(column: str, value: Any) -> Any:
    if column in _WORDS:
        return answers.word(value, _WHAT)
    if column == "reason":
        return answers.reason(value, _WHAT)
    return answers.number(value, _WHAT)


def write_site_tables(
    folder: Path, metas: Mapping[str, Mapping[str, Any]], job: JobSettings, warn: Callable[[str], None]
) -> None:
    """Put the sites' tables beside each other, in the server's results.

    Args:
        folder: of the results.
        metas: what came from each site beside its parameters.
        job: its settings.
        warn: told of a site whose tables are malformed; they are left out.
    """
    findings = load_vocabulary(job.vocabulary).findings
    about = {"run": job.name, "model": job.method}
    whole: dict[str, list[Row]] = {name: [] for name in (*TABLES, _HISTOGRAMS)}
    for site, meta in sorted(metas.items()):
        try:
            for name, rows in read_tables(meta, findings).items():
                whole[name] += [{**about, **row} for row in rows]
            whole[_HISTOGRAMS] += [{**about, "site": site, **row} for row in _histogram(meta, findings, job)]
        except RefusedUpdate as reason:
            warn(f"tables of {site} refused: {reason}")
    write_json(folder / keys.SITE_TABLES, {"tables": whole})


def _histogram(meta: Mapping[str, Any], findings: Collection[str], job: JobSettings) -> list[Row]:
    """Rows of ``score_histograms.csv`` from the counts of the test split; bad ones were told of already."""
    try:
        counts = read_counts(meta, findings, job.aggregation.max_samples) or {}
    except RefusedUpdate:
        return []
    rows: list[Row] = []
    for finding in findings:
        told = counts.get("test", {}).get(finding)
        for label in ("positive", "negative") if told else ():
            runs: Runs = getattr(told, label)
            ends = zip(EDGES[runs.first], EDGES[runs.last + 1], runs.count.tolist(), strict=True)
            about = {"finding": finding, "label": label}
            rows += [{**about, "low": float(a), "high": float(b), "count": n} for a, b, n in ends]
    return rows


def tables_of(results: Path) -> dict[str, pd.DataFrame]:
    """The sites' tables by file name, for the run folder; none where a server of an earlier version left none."""
    try:
        content = json.loads((results / keys.SITE_TABLES).read_text(encoding="utf-8"))["tables"]
    except FileNotFoundError:
        return {}
    files = {name: (file, columns) for name, (file, columns, _) in TABLES.items()}
    files[_HISTOGRAMS] = (SCORE_HISTOGRAMS_CSV, HISTOGRAM_COLUMNS)
    return {
        file: _frame(content[name], columns) for name, (file, columns) in files.items() if content.get(name) is not None
    }


def _frame(rows: list[Row], columns: tuple[str, ...]) -> pd.DataFrame:
    """A table; counts are whole numbers again."""
    table: pd.DataFrame = pd.DataFrame(rows, columns=list(columns))
    whole = [name for name in columns if name in ("bin", "n", "count") or "_n_" in name or name.startswith("n_")]
    cells = [f"test_{cell}" for cell in ("tp", "fp", "fn", "tn") if f"test_{cell}" in columns]
    for name in (*whole, *cells):
        table[name] = pd.to_numeric(table[name]).astype("Int64").astype(object).where(table[name].notna(), None)
    return table
