"""Everything that is made of a study's runs: collected tables, summaries, plots."""

from __future__ import annotations

from pathlib import Path

from nc_medfl.benchmark.matrix import Matrix
from nc_medfl.benchmark.plots import write_plots
from nc_medfl.benchmark.results import CHOSEN, RESULTS, RUNS_CSV, SKEW, collect
from nc_medfl.benchmark.searching import FOUND_YAML, SEARCH_CSV
from nc_medfl.benchmark.tables import write_tables


def write_report(matrix: Matrix, out: Path) -> list[Path]:
    """Write all tables and plots of the runs that are there; give their paths."""
    if not collect(matrix, out):
        return []
    write_tables(matrix, out)
    names = (RESULTS, CHOSEN, SKEW, RUNS_CSV, "summary.csv", "differences.csv", "tables.md", "tables.tex")
    searched = [path for name in (SEARCH_CSV, FOUND_YAML) if (path := out / name).is_file()]
    return [*(out / name for name in names), *searched, *write_plots(out, list(matrix.methods))]
