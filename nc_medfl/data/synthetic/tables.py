"""A hospital's label table, and the map that says what its columns mean."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from nc_medfl.data.synthetic.hospitals import Hospital, TableStyle


def table_columns(table: TableStyle) -> list[str]:
    """Names of the columns of a hospital's label table, in order."""
    head = [table.image_column, *([table.patient_column] if table.patient_column else [])]
    middle = [table.delimited] if table.delimited else list(table.names.values())
    return [*head, *middle, *table.extra]


def table_row(
    table: TableStyle, image: str, patient: str, findings: Sequence[str], rng: np.random.Generator
) -> dict[str, str]:
    """One line of a label table.

    Args:
        table: how the hospital keeps it.
        image: file name or SOP instance UID.
        patient: the patient's number.
        findings: what the film shows.
        rng: which entries are uncertain or empty.
    """
    row = {table.image_column: image}
    if table.patient_column:
        row[table.patient_column] = patient
    if table.delimited:
        row[table.delimited] = table.separator.join(table.names[f] for f in findings) or table.normal
    else:
        for finding, column in table.names.items():
            row[column] = _entry(table, finding in findings, rng)
    return row | dict(table.extra)


def _entry(table: TableStyle, present: bool, rng: np.random.Generator) -> str:
    chance = rng.random()
    if chance < table.uncertain_rate:
        return table.uncertain
    if chance < table.uncertain_rate + table.unknown_rate:
        return table.unknown
    return table.positive if present else table.negative


def table_text(table: TableStyle, rows: Sequence[dict[str, str]]) -> str:
    """The whole table as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, table_columns(table), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def label_map(hospital: Hospital) -> dict[str, Any]:
    """What ``label_map.yaml`` holds: which column names the image, what each column and code means."""
    table = hospital.table
    content: dict[str, Any] = {
        "name": hospital.name,
        "version": 1,
        "vocabulary": "nih14",
        "image_column": table.image_column,
        "image_key": table.image_key,
        "patient_column": table.patient_column,
    }
    if table.delimited:
        content["delimited"] = {
            "column": table.delimited,
            "separator": table.separator,
            "names": {name: finding for finding, name in table.names.items()},
            "normal": table.normal,
        }
    else:
        content["findings"] = {column: finding for finding, column in table.names.items()}
        content["values"] = {
            "positive": [table.positive],
            "negative": [table.negative],
            "uncertain": [table.uncertain],
            "unknown": [table.unknown],
        }
    content |= {"uncertain": "ignore", "blank": "unknown", "ignore_columns": list(table.extra)}
    return content


def label_map_text(hospital: Hospital) -> str:
    """``label_map.yaml`` of a hospital."""
    text: str = yaml.safe_dump(label_map(hospital), sort_keys=False, allow_unicode=True)
    return text
