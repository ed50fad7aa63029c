"""Writing the tables that stand beside ``metrics.csv``: the same rows, the same digits, the same bytes each time."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pandas as pd

from nc_medfl.data.store import write_atomic

THRESHOLDS_CSV, CALIBRATION_CSV, RELIABILITY_CSV = "thresholds.csv", "calibration.csv", "reliability.csv"
FAIRNESS_CSV = "fairness.csv"


def write_rows(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, whole or not at all; numbers have six digits, what is undefined is empty.

    Args:
        table: with the columns to write, in order.
        path: of the file, in an existing folder.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.itertuples(index=False, name=None):
        writer.writerow([_text(value) for value in row])
    write_atomic(path, stream.getvalue().encode())
    return path


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
