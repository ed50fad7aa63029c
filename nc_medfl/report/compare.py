"""The page of two runs: what ``metrics.csv`` of both says, side by side, and paired differences if there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.data.store import write_atomic
from nc_medfl.errors import UserError, writing
from nc_medfl.evaluation.tables import MACRO
from nc_medfl.pages import environment
from nc_medfl.report import plots, tables
from nc_medfl.report.audience import for_federation
from nc_medfl.report.cells import Cell, Table, decimal
from nc_medfl.report.differences import differences
from nc_medfl.report.reading import RunTables, read_extra, read_run_folder
from nc_medfl.report.withholding import guard_comparisons
from nc_medfl.report.words import flat_settings

COMPARE_HTML = "compare.html"
_MEASURES = {
    "average_precision": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "brier": "Brier score (less is better)",
    "ece": "Calibration error (less is better)",
}


def write_comparison(first: Path, second: Path, out: Path | None = None) -> Path:
    """Write a page that sets two runs side by side.

    Args:
        first: folder with ``metrics.csv``, A; its ``comparisons.csv``, where it has one, gives paired differences.
        second: another one, B.
        out: file to write; ``compare.html`` in the first folder by default.

    Returns:
        The path of the page.

    Raises:
        UserError: if a table is missing or damaged, or the two have no site and finding in common.
    """
    a, b = (for_federation(read_run_folder(folder)) for folder in (first, second))
    findings = [name for name in a.findings if name in b.findings]
    sites = [site for site in a.sites if site in b.sites]
    if not findings or not sites:
        raise UserError(
            f"--compare {first} {second}: no site and finding in common. Give two runs over the same sites."
        )
    page = (
        environment("nc_medfl.report")
        .get_template("compare.html.j2")
        .render(
            _context(a, b, sites, findings, _paired(first, (second, b), max(a.minimum, b.minimum)))
            | {"folders": [folder.resolve().name for folder in (first, second)]}
        )
    )
    path = out or first / COMPARE_HTML
    with writing(path, "Give --out another file."):
        write_atomic(path, page.encode("utf-8"))
    return path


def _names(a: RunTables, b: RunTables) -> tuple[str, str]:
    names = [str(data.run.get("name", "run")) for data in (a, b)]
    return (f"A: {names[0]}", f"B: {names[1]}")


def _context(
    a: RunTables, b: RunTables, sites: list[str], findings: list[str], compared: pd.DataFrame | None
) -> dict[str, Any]:
    names = _names(a, b)
    wholes = [name for name in ("all", "pooled") if a.cell(name, "macro", "auc") and b.cell(name, "macro", "auc")]
    by_site = [(site, "macro", tables.site_name(site)) for site in (*sites, *wholes)]
    where = wholes[-1] if wholes else sites[0]
    by_finding = [(where, finding, finding) for finding in findings]
    rows = []
    for site, finding, label in by_site:
        for data, name in ((a, "A"), (b, "B")):
            rows.append((f"{label}, {name}", _estimate(data, site, finding), name == "B"))
    alt = "Test macro AUC of both runs with 95% intervals, by site; the table below has the numbers."
    left_out = [name for name in (*a.sites, *b.sites) if name not in sites]
    left_out += [name for name in (*a.findings, *b.findings) if name not in findings]
    paired = differences(compared, sites)
    return {
        "names": names,
        "words": _words(a, b, where, names, told=paired is not None and bool(paired["sentences"])),
        "plot": plots.forest_plot("compare", rows, "macro AUC on test, with 95% interval", alt),
        "sites": _table("compare-sites", "Test macro AUC by site", "Site", a, b, by_site, names),
        "findings": _table(
            "compare-findings", f"{tables.site_name(where)}: test AUC by finding", "Finding", a, b, by_finding, names
        ),
        "measures": _measures(a, b, where, names),
        "settings": _settings(a, b),
        "paired": paired,
        "left_out": left_out,
        "minimum": max(a.minimum, b.minimum),
    }


def _estimate(data: RunTables, site: str, finding: str) -> plots.Estimate:
    row = data.cell(site, finding, "auc")
    return (float(row["value"]), float(row["low"]), float(row["high"])) if row else (np.nan, np.nan, np.nan)


def _words(a: RunTables, b: RunTables, where: str, names: tuple[str, str], *, told: bool) -> str:
    """Both means; their difference too, unless the paired one is told."""
    before, after = (data.value(where, "macro", "auc") for data in (a, b))
    if np.isnan(before) or np.isnan(after):
        return "The macro AUC of one of the two is undefined, so they can't be compared as a whole."
    text = f"{tables.site_name(where)}: macro AUC {decimal(before)} ({names[0]}) and {decimal(after)} ({names[1]})"
    return f"{text}." if told else f"{text}, a difference A minus B of {decimal(before - after)}."


def _table(
    name: str,
    caption: str,
    head: str,
    a: RunTables,
    b: RunTables,
    places: list[tuple[str, str, str]],
    names: tuple[str, str],
) -> Table:
    table = Table(name, caption, (head, f"{names[0]} (95%)", f"{names[1]} (95%)", "A minus B"))
    for site, finding, label in places:
        cells = [table.number(data.cell(site, finding, "auc"), interval=True) for data in (a, b)]
        difference = a.value(site, finding, "auc") - b.value(site, finding, "auc")
        if np.isnan(difference):
            cells.append(table.undefined("one of the two is undefined"))
        else:
            cells.append(Cell(decimal(difference), f"{difference:.6g}"))
        table.rows.append([Cell(label), *cells])
    return table


def _measures(a: RunTables, b: RunTables, site: str, names: tuple[str, str]) -> Table:
    """What else is measured, as means over findings."""
    caption = f"{tables.site_name(site)}: other measures on test, mean over findings"
    table = Table("compare-measures", caption, ("Measure", f"{names[0]} (95%)", f"{names[1]} (95%)", "A minus B"))
    for metric, label in _MEASURES.items():
        cells = [table.number(data.cell(site, MACRO, metric), interval=True) for data in (a, b)]
        difference = a.value(site, MACRO, metric) - b.value(site, MACRO, metric)
        lacks = table.undefined("one of the two is undefined") if np.isnan(difference) else None
        table.rows.append([Cell(label), *cells, lacks or Cell(decimal(difference), f"{difference:.6g}")])
    return table


def _settings(a: RunTables, b: RunTables) -> list[tuple[str, str, str]] | None:
    """Method, seed, rounds and settings in which the two differ; None where one of them has no ``run.json``."""
    if not all(data.run.get("settings") for data in (a, b)):
        return None
    told = []
    for data in (a, b):
        run = {name: str(data.run.get(name)) for name in ("method", "seed", "rounds", "best_round", "env", "outcome")}
        told.append(run | dict(flat_settings(data.run["settings"])))
    keys = [key for key in dict.fromkeys((*told[0], *told[1])) if told[0].get(key) != told[1].get(key)]
    absent = "not a setting of it"
    return [(key, told[0].get(key, absent), told[1].get(key, absent)) for key in keys]


def _paired(first: Path, other: tuple[Path, RunTables], minimum: int) -> pd.DataFrame | None:
    """Rows of the first folder's ``comparisons.csv`` with the second run, told by its folder or by its own name."""
    found = read_extra(first, "comparisons")
    if found is None:
        return None
    second, data = other
    theirs = found[found["model_b"].isin([second.resolve().name, str(data.run.get("name"))])]
    return guard_comparisons(theirs, minimum) if len(theirs) else None
