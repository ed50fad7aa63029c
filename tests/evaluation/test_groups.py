"""Groups of patients, and the table of who is served worst."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nc_medfl.evaluation.groups import fairness_table, group_rows, members
from nc_medfl.evaluation.tables import as_table


def _row(site="a", group="all", metric="auc", value=0.8, low=0.7, high=0.9, reason="", finding="macro"):
    about = {"run": "r", "model": "m", "split": "test", "n_positive": 9, "n_annotated": 99}
    ends = {"value": value, "low": low, "high": high}
    return {**about, "site": site, "group": group, "finding": finding, "metric": metric, **ends, "reason": reason}


def test_groups_have_the_ids_of_the_tables_and_nobody_unknown():
    attributes = {"sex": ["F", "M", "", None], "age": [61, np.nan, 93, 7], "view": ["PA", "AP", "PA", "PA"]}
    found = {group: np.flatnonzero(mask).tolist() for group, mask in members(attributes)}
    assert found == {
        "sex=F": [0],
        "sex=M": [1],
        "age=0-9": [3],
        "age=60-69": [0],
        "age=90+": [2],
        "view=AP": [1],
        "view=PA": [0, 2, 3],
    }


def test_a_group_of_few_patients_is_withheld_whatever_its_images():
    attributes = {"sex": ["F"] * 6 + ["M"] * 6}
    patients = [0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7]
    about = {"run": "r", "model": "m", "site": "a", "split": "test"}
    seen = []

    def evaluate(mask, group):
        seen.append((group, int(mask.sum())))
        return as_table([_row(group=group)])

    parts = group_rows(attributes, patients, ["A"], evaluate, about=about, min_group=3)
    assert seen == [("sex=M", 6)]
    withheld = as_table(parts[0])
    assert set(withheld["finding"]) == {"A", "macro", "micro"}
    assert withheld["value"].isna().all()
    assert set(withheld["reason"]) == {"withheld: fewer than 3 patients"}


def test_groups_are_compared_within_a_site_and_sites_with_each_other():
    rows = [
        _row("a", value=0.9, low=0.8, high=0.94),
        _row("b", value=0.6, low=0.5, high=0.72),
        _row("pooled", value=0.1),
        _row("all", value=0.1),
        _row("a", "sex=F", value=0.7),
        _row("a", "sex=M", value=0.9),
        _row("a", "sex=O", value=None, low=None, high=None, reason="withheld: fewer than 20 patients"),
    ]
    table = fairness_table(as_table(rows))
    sites = table[table["attribute"] == "site"].iloc[0]
    assert (sites["site"], sites["worst_group"], sites["best_group"]) == ("all", "b", "a")
    assert sites["gap"] == pytest.approx(0.3)
    assert (sites["gap_low"], sites["gap_high"]) == pytest.approx((0.143795, 0.407703), abs=1e-6)
    sex = table[table["attribute"] == "sex"].iloc[0]
    assert (sex["site"], sex["worst_group"], sex["n_groups"], sex["n_withheld"]) == ("a", "sex=F", 2, 1)
    assert len(table) == 2


def test_the_worst_calibrated_group_is_the_one_with_the_largest_error():
    rows = [_row("a", "sex=F", "ece", 0.2, 0.1, 0.3), _row("a", "sex=M", "ece", 0.1, 0.05, 0.2)]
    assert fairness_table(as_table(rows)).iloc[0]["worst_group"] == "sex=F"


def test_one_site_alone_is_not_compared():
    assert fairness_table(as_table([_row("a")])).empty


def test_rows_put_together_from_several_tables_are_compared_as_one_table_is():
    parts = [as_table([_row("a", "sex=F", value=0.7)]), as_table([_row("a", "sex=M", value=0.9)])]
    table = fairness_table(pd.concat(parts))  # both rows are number 0
    assert table["worst_group"].tolist() == ["sex=F"]
