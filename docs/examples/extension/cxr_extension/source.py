"""A source for label tables with a row for each image and finding, as many reporting systems write them."""

from __future__ import annotations

import pandas as pd

from nc_medfl.data.sources import LabelChoices, Source, read_table
from nc_medfl.errors import UserError

COLUMNS = ("image", "patient", "finding", "present")


def one_row_an_image(choices: LabelChoices) -> pd.DataFrame:
    """A row an image, and a column a finding; what nobody wrote down about an image stays empty.

    The columns of image and patient get the names by which nc_medfl knows them without being told.

    Raises:
        UserError: if a column is missing, or an image has two answers about a finding.
    """
    table = read_table(choices.table)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise UserError(f"{choices.table.name}: no column '{missing[0]}'. It needs {', '.join(COLUMNS)}.")
    if table.duplicated(["image", "finding"]).any():
        raise UserError(f"{choices.table.name}: an image has two rows about one finding. Keep one.")
    wide = table.pivot(index=["image", "patient"], columns="finding", values="present")
    wide = wide.fillna("").rename_axis(columns=None).reset_index()
    return wide.rename(columns={"image": "Image Index", "patient": "Patient ID"})


LONG_TABLE = Source(
    about="pictures and a table with a row an image and finding",
    kind="picture",
    suffixes=(".png",),
    table=one_row_an_image,
    published=False,
)
