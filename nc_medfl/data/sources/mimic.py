"""MIMIC-CXR-JPG: labels by study, and a metadata table that says which images a study has (Johnson et al., 2019)."""

from __future__ import annotations

import pandas as pd

from nc_medfl.data.sources.choices import LabelChoices
from nc_medfl.data.sources.tables import need_columns, read_table
from nc_medfl.errors import UserError

_STUDY = ["subject_id", "study_id"]


def mimic_table(choices: LabelChoices) -> pd.DataFrame:
    """One row an image: every image of a study has the labels of the study's report.

    Raises:
        UserError: without the metadata table, or if the two tables are not of one release.
    """
    labels = read_table(choices.table)
    need_columns(labels, _STUDY, choices.table.name, "mimic-cxr-2.0.0-chexpert.csv.gz or -negbio.csv.gz")
    if choices.metadata is None:
        raise UserError("--source mimic: its labels are by study. Give mimic-cxr-2.0.0-metadata.csv.gz as --metadata.")
    images = read_table(choices.metadata, columns=("dicom_id", *_STUDY, "ViewPosition"))
    need_columns(images, ("dicom_id", *_STUDY), choices.metadata.name, "mimic-cxr-2.0.0-metadata.csv.gz")
    for table in (labels, images):
        for column in _STUDY:
            table[column] = table[column].str.strip()
    joined: pd.DataFrame = images.merge(labels, on=_STUDY, how="inner", sort=False)
    if joined.empty:
        raise UserError(
            f"{choices.metadata.name}: has no study of {choices.table.name}. Give the two tables of one release."
        )
    return joined
