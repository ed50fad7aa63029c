"""The page of two runs: what ``metrics.csv`` of both says, side by side, and paired differences if there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.data.store import write_atomic
from nc_medfl.errors import UserError, writing
from nc_medfl.pages import environment
from nc_medfl.report import plots, tables
from nc_medfl.report.audience import for_federation
from nc_medfl.report.cells import Cell, Table, decimal
from nc_medfl.report.differences import differences
from nc_medfl.report.reading import RunTables, read_extra, read_run_folder
from nc_medfl.report.withholding import guard_comparisons

COMPARE_HTML = "compare.html"


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
        .render(_context(a, b, sites, findings, _paired(first, second, max(a.minimum, b.minimum))))
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
    left_out = [site for site in (*a.sites, *b.sites) if site not in sites]
    return {
        "names": names,
        "words": _words(a, b, where, names),
        "plot": plots.forest_plot("compare", rows, "macro AUC on test, with 95% interval", alt),
        "sites": _table("compare-sites", "Test macro AUC by site", "Site", a, b, by_site, names),
        "findings": _table(
            "compare-findings", f"{tables.site_name(where)}: test AUC by finding", "Finding", a, b, by_finding, names
        ),
        "paired": differences(compared, sites),
        "left_out": left_out,
        "minimum": max(a.minimum, b.minimum),
    }


def _estimate(data: RunTables, site: str, finding: str) -> plots.Estimate:
    row = data.cell(site, finding, "auc")
    return (float(row["value"]), float(row["low"]), float(row["high"])) if row else (np.nan, np.nan, np.nan)


def _words(a: RunTables, b: RunTables, where: str, names: tuple[str, str]) -> str:
    before, after = (data.value(where, "macro", "auc") for data in (a, b))
    if np.isnan(before) or np.isnan(after):
        return "The macro AUC of one of the two is undefined, so they can't be compared as a whole."
    text = f"{tables.site_name(where)}: macro AUC {decimal(before)} ({names[0]}) and {decimal(after)} ({names[1]}), "
    return text + f"a difference B minus A of {decimal(after - before)}."


def _table(
    name: str,
    caption: str,
    head: str,
    a: RunTables,
    b: RunTables,
    places: list[tuple[str, str, str]],
    names: tuple[str, str],
) -> Table:
    table = Table(name, caption, (head, f"{names[0]} (95%)", f"{names[1]} (95%)", "B minus A"))
    for site, finding, label in places:
        cells = [table.number(data.cell(site, finding, "auc"), interval=True) for data in (a, b)]
        difference = b.value(site, finding, "auc") - a.value(site, finding, "auc")
        if np.isnan(difference):
            cells.append(table.undefined("one of the two is undefined"))
        else:
            cells.append(Cell(decimal(difference), f"{difference:.6g}"))
        table.rows.append([Cell(label), *cells])
    return table


def _paired(first: Path, second: Path, minimum: int) -> pd.DataFrame | None:
    """Rows of the first folder's ``comparisons.csv``: those with the second, where they can be told by its name."""
    found = read_extra(first, "comparisons")
    if found is None:
        return None
    theirs = found[found["model_b"] == second.resolve().name]
    return guard_comparisons(theirs if len(theirs) else found, minimum)
