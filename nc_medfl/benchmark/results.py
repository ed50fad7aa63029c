"""The tables of a study, put together from its runs: ``results.csv``, ``chosen.csv``, ``skew.csv``, ``runs.csv``."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from nc_medfl.benchmark.identity import is_of
from nc_medfl.benchmark.matrix import Matrix, RunKey, run_keys
from nc_medfl.benchmark.runner import RUNS, read_run
from nc_medfl.benchmark.searching import found_settings
from nc_medfl.data.store import write_atomic

RESULTS, CHOSEN, SKEW, RUNS_CSV = "results.csv", "chosen.csv", "skew.csv", "runs.csv"
_RUN_COLUMNS = (
    "dataset",
    "partition",
    "method",
    "seed",
    "chosen_round",
    "validation_auc",
    "n_parameters",
    "seconds",
    "settings_hash",
    "data",
    "start",
)
_SKEW_COLUMNS = ("label_skew", "total_variation", "findings_a_site", "train_images", "smallest", "largest")


def finished_runs(matrix: Matrix, out: Path) -> tuple[list[RunKey], list[RunKey]]:
    """The finished runs of a matrix as it is now, and those that stand in their place with other settings or data."""
    found = found_settings(matrix, out)
    fitting: list[RunKey] = []
    others: list[RunKey] = []
    for key in run_keys(matrix):
        run = read_run(out, key)
        if run.get("outcome") == "finished":
            (fitting if is_of(run, matrix, key, found.get(key)) else others).append(key)
    return fitting, others


def collect(matrix: Matrix, out: Path) -> list[RunKey]:
    """Write the tables of all finished runs; one made with other settings or data has no place beside them.

    Returns:
        The runs that are in them, in the order of the matrix.
    """
    keys, _ = finished_runs(matrix, out)
    for name in (RESULTS, CHOSEN, SKEW):
        _join([out / RUNS / key.folder / name for key in keys], out / name)
    rows = []
    for key in keys:
        run = read_run(out, key)
        versions = {f"version_{name}": value for name, value in sorted(run["versions"].items())}
        rows.append({name: run.get(name) for name in _RUN_COLUMNS} | run["skew"] | versions)
    table = pd.DataFrame(rows, columns=None if rows else [*_RUN_COLUMNS, *_SKEW_COLUMNS])
    write_atomic(out / RUNS_CSV, table.to_csv(index=False, lineterminator="\n").encode())
    return keys


def read_table(path: Path) -> pd.DataFrame:
    """One of the tables; an empty value is NaN, and a finding called 'NA' stays a text."""
    table: pd.DataFrame = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]})
    return table


def _join(parts: list[Path], path: Path) -> None:
    """CSV files with one header, one after the other, as they are."""
    stream = io.StringIO()
    for number, part in enumerate(parts):
        header, _, body = part.read_text(encoding="utf-8").partition("\n")
        if number == 0:
            stream.write(header + "\n")
        stream.write(body)
    write_atomic(path, stream.getvalue().encode())
