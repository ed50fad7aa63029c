"""What a table says of a picture that has no header: view, sex, age, spacing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from nc_medfl.data.dicom.deidentify import age_of, sex_of, view_of
from nc_medfl.data.radiograph import Facts
from nc_medfl.labels import LabelMap


def facts_in(rows: pd.DataFrame, label_map: LabelMap) -> list[Mapping[str, str]]:
    """Each row's cells that the map names as facts, by fact."""
    chosen = {fact: next((n for n in names if n in rows), None) for fact, names in label_map.facts.items()}
    columns = {fact: rows[name].tolist() for fact, name in chosen.items() if name is not None}
    if not columns:
        return [{} for _ in range(len(rows))]
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def facts_of_table(facts: Facts, extra: Mapping[str, str]) -> Facts:
    """Put what the table says of an image into its facts, as closed terms and numbers.

    The table's spacing is that of the original with its number of ``rows``; the picture covers the same height with
    its own. What the picture itself says stands where the table says nothing.
    """
    try:
        spacing: float | None = float(extra["spacing"]) * float(extra["rows"]) / facts.rows
    except (KeyError, ValueError):
        spacing = facts.spacing
    age = age_of(_whole(extra.get("age", "")))
    return replace(
        facts,
        view=view_of(extra.get("view", "")) or facts.view,
        spacing=spacing if spacing and 0 < spacing < 100 else None,
        sex=sex_of(extra.get("sex", "")) or facts.sex,
        age=facts.age if age is None else age,
    )


def _whole(text: str) -> str:
    """``62.0``, as spreadsheets write it, as ``62``."""
    return text.strip().removesuffix(".0")
