"""Paired differences between models on the same patients, from ``comparisons.csv``: in sentences and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.evaluation.tables import ALL_SITES, MACRO, MICRO, POOLED
from nc_medfl.report.cells import Cell, Table, decimal

_METRIC = "auc"


def differences(table: pd.DataFrame | None, sites: Sequence[str]) -> dict[str, Any] | None:
    """The AUC of one model and of each other, over all patients (or on average over sites), and at each site.

    Args:
        table: of ``comparisons.csv``, what is withheld being NaN there; None where there is none.
        sites: to tell of, besides all of them together.

    Returns:
        ``sentences`` of the means over findings, and a ``table`` of findings; None without rows of the AUC.
    """
    if table is None or table.empty:
        return None
    told = table[(table["metric"] == _METRIC) & table["site"].isin([*sites, ALL_SITES, POOLED])]
    if told.empty:
        return None
    places = [POOLED, ALL_SITES, *sites]
    macro = told[told["finding"] == MACRO]
    sentences = [
        str(row["sentence"])
        for place in places
        for row in macro[macro["site"] == place].to_dict("records")
        if row["sentence"]
    ]
    return {"sentences": sentences, "table": _table(told, places)}


def _table(told: pd.DataFrame, places: Sequence[str]) -> Table:
    first = str(told["model_a"].iloc[0])
    headers = ("Finding", "Against", "Where", "AUC", "AUC of the other", "Difference (95%)", "p (Holm)")
    table = Table("differences", f"Differences in AUC between {first} and others, on the same test patients", headers)
    for other, part in told.groupby("model_b", sort=False):
        # Each site's own model has no rows over all patients.
        place = next(name for name in places if (part["site"] == name).any())
        where = {POOLED: "all patients", ALL_SITES: "mean over sites"}.get(place, place)
        for row in part[(part["site"] == place) & (part["finding"] != MICRO)].to_dict("records"):
            name = "Mean over findings" if row["finding"] == MACRO else str(row["finding"])
            cells = [_number(table, row, key) for key in ("value_a", "value_b", "difference", "p_holm")]
            table.rows.append([Cell(name), Cell(str(other)), Cell(where), *cells])
    return table


def _number(table: Table, row: dict[Any, Any], key: str) -> Cell:
    value = float(row[key])
    if np.isnan(value):
        lacks = "corrected over the findings of one place only" if key == "p_holm" else ""
        return table.undefined(lacks if lacks and not np.isnan(row["difference"]) else str(row["reason"]))
    extra = ""
    if key == "difference" and not np.isnan(row["low"]):
        extra = f"{decimal(row['low'])} to {decimal(row['high'])}"
    note = str(row["reason"]) if key == "difference" else ""
    return Cell(decimal(value), f"{value:.6g}", extra, table.mark(note), note)
