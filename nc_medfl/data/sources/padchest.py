"""PadChest: one row an image, ``Labels`` written as a Python list (Bustos et al., Medical Image Analysis 2020)."""

from __future__ import annotations

import re

import pandas as pd

from nc_medfl.data.sources.choices import LabelChoices
from nc_medfl.data.sources.tables import need_columns, read_table

#: The columns that are read. ``Report`` is free text and is not.
_COLUMNS = (
    *("ImageID", "PatientID", "PatientBirth", "StudyDate_DICOM", "PatientSex_DICOM", "Projection"),
    "Labels",
)
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def padchest_table(choices: LabelChoices) -> pd.DataFrame:
    """The table with ``Labels`` listed between '|', and ``age`` from the years of birth and examination.

    Raises:
        UserError: if it is no such table.
    """
    table = read_table(choices.table, columns=_COLUMNS)
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    need_columns(table, ("ImageID", "PatientID", "Labels"), choices.table.name, name)
    table["Labels"] = table["Labels"].map({text: listed(text) for text in table["Labels"].unique()})
    if {"PatientBirth", "StudyDate_DICOM"} <= set(table.columns):
        birth = pd.to_numeric(table["PatientBirth"].str.strip().str.slice(0, 4), errors="coerce")
        study = pd.to_numeric(table["StudyDate_DICOM"].str.strip().str.slice(0, 4), errors="coerce")
        age = (study - birth).where(lambda years: (years >= 0) & (years <= 125))
        table["age"] = age.map(lambda years: "" if pd.isna(years) else str(int(years)))
    # 'AP_horizontal' is an AP film of a lying patient; 'L' a lateral one.
    views = {"L": "LATERAL", "AP_horizontal": "AP"}
    if "Projection" in table:
        table["Projection"] = table["Projection"].str.strip().replace(views)
    dates = [name for name in ("PatientBirth", "StudyDate_DICOM") if name in table]
    rest: pd.DataFrame = table.drop(columns=dates)
    return rest


def listed(text: str) -> str:
    """``['normal', 'pleural effusion ']`` as ``normal|pleural effusion``; empty for an empty list or ``nan``."""
    parts = (a or b for a, b in _QUOTED.findall(text))
    return "|".join(part for part in (p.strip() for p in parts) if part)
