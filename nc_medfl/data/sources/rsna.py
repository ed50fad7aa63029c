"""RSNA Pneumonia Detection Challenge, stage 2: a row a box (Shih et al., Radiology: Artificial Intelligence 2019)."""

from __future__ import annotations

import pandas as pd

from nc_medfl.data.sources.choices import LabelChoices
from nc_medfl.data.sources.tables import need_columns, read_table
from nc_medfl.errors import UserError

_CLASSES = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")


def rsna_table(choices: LabelChoices) -> pd.DataFrame:
    """``patientId`` and ``Target`` once an image, with ``Normal`` where the detailed class info is given.

    All boxes of an image have ``Target`` 1; an image without a box has one row with 0.

    Raises:
        UserError: if they are no such tables.
    """
    table = read_table(choices.table)
    need_columns(table, ("patientId", "Target"), choices.table.name, "stage_2_train_labels.csv")
    # Rows that agree are one row; those that don't are left to the rule for repeated rows.
    targets: pd.DataFrame = table[["patientId", "Target"]].apply(lambda column: column.str.strip())
    targets = targets.drop_duplicates(ignore_index=True)
    if choices.metadata is None:
        return targets
    info = read_table(choices.metadata)
    need_columns(info, ("patientId", "class"), choices.metadata.name, "stage_2_detailed_class_info.csv")
    info = info[["patientId", "class"]].apply(lambda column: column.str.strip()).drop_duplicates()
    if not set(info["class"]) <= set(_CLASSES):
        raise UserError(
            f"{choices.metadata.name}: column 'class' holds other classes than {', '.join(_CLASSES)}. "
            "Give stage_2_detailed_class_info.csv as --metadata."
        )
    normal = info.assign(Normal=(info["class"] == "Normal").map({True: "1", False: "0"}))
    joined: pd.DataFrame = targets.merge(normal[["patientId", "Normal"]], on="patientId", how="left")
    joined["Normal"] = joined["Normal"].fillna("")
    return joined
