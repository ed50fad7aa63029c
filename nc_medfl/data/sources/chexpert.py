"""CheXpert: ``train.csv`` and ``valid.csv``, one row an image (Irvin et al., AAAI 2019)."""

from __future__ import annotations

import re

import pandas as pd

from nc_medfl.data.sources.choices import LabelChoices
from nc_medfl.data.sources.tables import need_columns, read_table

_PATIENT = re.compile(r"(?:^|[/\\])(patient\d+)(?:[/\\]|$)", re.IGNORECASE)


def chexpert_table(choices: LabelChoices) -> pd.DataFrame:
    """The table with ``patient`` and ``view`` added: the path says the first, two columns the second.

    Raises:
        UserError: if it is no such table.
    """
    table = read_table(choices.table)
    need_columns(table, ("Path",), choices.table.name, "CheXpert's train.csv or valid.csv")
    found = table["Path"].str.extract(_PATIENT, expand=False).fillna("").str.casefold()
    if "Frontal/Lateral" in table:
        projection = table["AP/PA"].str.strip() if "AP/PA" in table else ""
        lateral = table["Frontal/Lateral"].str.strip().str.casefold() == "lateral"
        # 'AP/PA' is empty for lateral images, and holds LL or RL in a few rows.
        table["view"] = pd.Series(projection, index=table.index).where(~lateral, "LATERAL")
    table["patient"] = found
    return table
