"""VinDr-CXR: several radiologists read each image (Nguyen et al., Scientific Data 2022).

Two shapes are read: a row a reader and image with a column a finding (``image_labels_train.csv``,
``image_labels_test.csv``), and a row a box with ``class_name`` (``annotations_train.csv``, and ``train.csv`` of the
VinBigData challenge). The test set was read by consensus and names no reader.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from nc_medfl.data.sources.choices import Agreement, LabelChoices
from nc_medfl.data.sources.tables import need_columns, read_table
from nc_medfl.errors import UserError

_BOXES = ("class_id", "x_min", "y_min", "x_max", "y_max")
#: Spelt differently in the tables of the same release.
_SPELT = {"Other diseases": "Other disease"}


def vindr_table(choices: LabelChoices) -> pd.DataFrame:
    """One row an image: 1 or 0 as the readers agree, -1 where as many say yes as say no.

    In a table of boxes, a finding that no box in it has counts as one that nobody marked, and gets no column.

    Raises:
        UserError: if it is no such table.
    """
    table = read_table(choices.table)
    where = choices.table.name
    need_columns(table, ("image_id",), where, "image_labels_train.csv or annotations_train.csv of VinDr-CXR")
    table = table.apply(lambda column: column.str.strip())
    if "rad_id" not in table:
        table["rad_id"] = "consensus"
    votes = _of_boxes(table) if "class_name" in table else _of_columns(table, where)
    return agree(votes, choices.agreement)


def agree(votes: pd.DataFrame, rule: Agreement) -> pd.DataFrame:
    """What the readers of each image say together.

    Args:
        votes: ``image_id``, ``rad_id`` and a column of 0 and 1 a finding; one row a reader and image.
        rule: present if more than half of an image's readers say so (``majority``; half of them: uncertain), if
            one does (``any``), or if all do (``all``).

    Returns:
        ``image_id`` and the findings as texts ``1``, ``0`` and ``-1``.
    """
    findings = [name for name in votes.columns if name not in ("image_id", "rad_id")]
    # A reader's rows about one image are one reading.
    readings = votes.groupby(["image_id", "rad_id"], sort=False)[findings].max()
    share = readings.groupby(level="image_id", sort=False).mean()
    if rule == "any":
        said = np.where(share > 0, "1", "0")
    elif rule == "all":
        said = np.where(share == 1, "1", "0")
    else:
        said = np.where(share > 0.5, "1", np.where(share == 0.5, "-1", "0"))
    together: pd.DataFrame = pd.DataFrame(said, index=share.index, columns=findings).reset_index()
    return together


def _of_boxes(table: pd.DataFrame) -> pd.DataFrame:
    names = table["class_name"].replace(_SPELT)
    marks = pd.get_dummies(names, dtype=np.int8)
    return _beside(table, marks)


def _of_columns(table: pd.DataFrame, where: str) -> pd.DataFrame:
    findings = [name for name in table.columns if name not in ("image_id", "rad_id", *_BOXES)]
    if not findings:
        raise UserError(f"{where}: has neither 'class_name' nor a column a finding. Give a label table of VinDr-CXR.")
    numbers = table[findings].apply(pd.to_numeric, errors="coerce")
    wrong = [name for name in findings if not numbers[name].isin((0, 1)).all()]
    if wrong:
        row = int(np.flatnonzero(~numbers[wrong[0]].isin((0, 1)))[0])
        raise UserError(
            f"{where}: column '{wrong[0]}' holds something other than 0 and 1 (row {row + 2}). Mend the table."
        )
    return _beside(table, numbers.astype(np.int8).rename(columns=_SPELT))


def _beside(table: pd.DataFrame, votes: pd.DataFrame) -> pd.DataFrame:
    whole: pd.DataFrame = pd.concat([table[["image_id", "rad_id"]], votes], axis=1)
    return whole
