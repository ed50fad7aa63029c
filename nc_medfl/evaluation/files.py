"""``metrics.csv`` and ``metrics.json``: the same rows, the same digits, the same bytes each time."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from nc_medfl.data.store import write_atomic
from nc_medfl.errors import UserError
from nc_medfl.evaluation.tables import COLUMNS, as_table

SCHEMA_VERSION = 1
METRICS_CSV, METRICS_JSON = "metrics.csv", "metrics.json"

_FLOATS = ("value", "low", "high")


def write_metrics(rows: pd.DataFrame, folder: Path) -> tuple[Path, Path]:
    """Write ``metrics.csv`` and ``metrics.json``, each whole or not at all.

    Args:
        rows: with the columns of ``metrics.csv``.
        folder: an existing folder.

    Returns:
        The paths of both.
    """
    records: list[dict[str, Any]] = [
        {str(name): _six_digits(value) if name in _FLOATS else value for name, value in row.items()}
        for row in as_table(rows).to_dict("records")
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: _text(value) for name, value in record.items()})
    content = {"schema_version": SCHEMA_VERSION, "rows": records}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / METRICS_CSV, stream.getvalue().encode())
    write_atomic(folder / METRICS_JSON, (text + "\n").encode())
    return folder / METRICS_CSV, folder / METRICS_JSON


def read_metrics(folder: Path) -> pd.DataFrame:
    """Read ``metrics.csv`` of a folder.

    Raises:
        UserError: if it is missing or not such a table.
    """
    path = folder / METRICS_CSV
    try:
        # A finding may be called "NA": nothing but an empty number is missing.
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        missing = [name for name in COLUMNS if name not in table]
        if missing:
            raise UserError(f"{path}: no column '{missing[0]}'. Write it again with 'nc-medfl evaluate'.")
        for name in (*_FLOATS, "n_positive", "n_annotated"):
            table[name] = pd.to_numeric(table[name].where(table[name] != "", None))
        return as_table(table)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Write it with 'nc-medfl evaluate'.") from error
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a table of metrics. Write it again with 'nc-medfl evaluate'.") from error


def _six_digits(value: float) -> float | None:
    return None if value != value else float(f"{value:.6g}")


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
