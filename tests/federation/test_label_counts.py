"""Counts of labels that may leave a site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nc_medfl.data.store import Store
from nc_medfl.federation.label_counts import check_counts, pairs, site_counts, table, together_table
from tests_support import tiny_site


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_site(tmp_path_factory.mktemp("site"), "a", images=100, prevalence=0.12, seed=3, missing=["Hernia"])


def test_counts_are_those_of_the_manifest_where_they_are_told(store: Store) -> None:
    rows = site_counts(store)["rows"]
    told = 0
    for row in rows:
        part = store.manifest[store.manifest["split"] == row["split"]]
        values = part[f"label:{row['finding']}"]
        of = {"n_positive": 1, "n_negative": 0}
        patients = {state: part.loc[values == value, "patient_key"].nunique() for state, value in of.items()}
        assert (row["n_images"], row["n_patients"]) == (len(part), part["patient_key"].nunique())
        for state, value in of.items():
            if 0 < patients[state] < 5:
                assert row[state] is None
            elif row[state] is not None:
                assert row[state] == int((values == value).sum())
                told += 1
        # What is told and the number of images never give a small count away.
        hidden = [state for state in ("n_positive", "n_negative", "n_unknown") if row[state] is None]
        assert len(hidden) != 1
    assert told > 20
    assert any(row["n_positive"] is None for row in rows)
    hernia = next(row for row in rows if (row["finding"], row["split"]) == ("Hernia", "train"))
    assert hernia["n_positive"] == 0


def test_a_site_can_ask_for_more_and_not_for_less(store: Store) -> None:
    assert site_counts(store, 2) == site_counts(store)
    stricter = site_counts(store, 9)
    assert stricter["minimum"] == 9
    before = {(r["split"], r["finding"]): r for r in site_counts(store)["rows"]}
    train = store.manifest[store.manifest["split"] == "train"]
    seen = 0
    for row in stricter["rows"]:
        assert row["n_positive"] in (None, before[(row["split"], row["finding"])]["n_positive"])
        if row["split"] == "train":
            n = train.loc[train[f"label:{row['finding']}"] == 1, "patient_key"].nunique()
            seen += 5 <= n < 9
            assert (row["n_positive"] is None) >= (0 < n < 9)
    assert seen > 0


def test_pairs_by_hand() -> None:
    # 20 patients, an image each. a: 0-11, b: 6-16, c: 0-11 but one. Both a and b: 6 (6-11), a alone: 6, b alone: 5,
    # neither: 3 (17-19), which is few. With six more patients of neither, it is told.
    def has(*numbers: int, of: int) -> list[bool]:
        return [i in numbers for i in range(of)]

    a, b, c = range(12), range(6, 17), range(11)
    few = np.array([has(*a, of=20), has(*b, of=20)]).T
    assert pairs(few, np.arange(20), [True, True], 5) == [[12, None], [None, 11]]
    more = np.array([has(*a, of=26), has(*b, of=26), has(*c, of=26)]).T
    # a and c together: 11, but a alone is one patient.
    untold = pairs(more, np.arange(26), [True, False, True], 5)
    assert untold == [[12, None, None], [None, None, None], [None, None, 11]]
    # A finding whose own count is withheld has no pairs.
    assert pairs(more, np.arange(26), [True, False, True], 5) == [
        [12, None, None],
        [None, None, None],
        [None, None, 11],
    ]


def test_many_images_of_few_patients_are_few() -> None:
    positive = np.ones((40, 2), dtype=bool)
    positive[20:] = False
    assert pairs(positive, np.arange(40) // 10, [True, True], 5)[0][1] is None
    assert pairs(positive, np.arange(40), [True, True], 5)[0][1] == 20


def test_sums_are_of_what_is_told_and_say_how_many_withhold(store: Store, tmp_path: Path) -> None:
    other = tiny_site(tmp_path, "b", images=200, prevalence=0.3, seed=5)
    sites = {"a": site_counts(store), "b": site_counts(other)}
    rows = table(sites)
    assert {row["site"] for row in rows} == {"a", "b", "all"}
    one = {(r["site"], r["split"], r["finding"]): r for r in rows}
    hidden = next(r for r in rows if r["site"] == "a" and r["split"] == "train" and r["n_positive"] is None)
    whole = one["all", "train", hidden["finding"]]
    assert whole["n_positive"] == one["b", "train", hidden["finding"]]["n_positive"]
    assert whole["reason"].startswith("1 of 2 sites")
    assert "fewer than 5 patients" in hidden["reason"]
    findings = store.vocabulary.findings
    both = together_table(sites, findings)
    assert len(both) == 3 * len(findings) * (len(findings) - 1) // 2


def test_what_a_site_sends_is_checked(store: Store) -> None:
    findings = store.vocabulary.findings
    good = json.loads(json.dumps(site_counts(store)))
    assert check_counts(good, findings, 1000) == good
    negative = json.loads(json.dumps(good))
    negative["rows"][0]["n_images"] = -1
    text = json.loads(json.dumps(good))
    text["together"][0][0] = "12"
    for bad in (None, [], {}, {**good, "rows": good["rows"][1:]}, {**good, "together": [[1]]}, negative, text):
        with pytest.raises(ValueError, match="its "):
            check_counts(bad, findings, 1000)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("minimum",), float("inf")),
        (("minimum",), -1),
        (("rows", 0, "n_positive"), 10**40),
        (("rows", 0, "n_positive"), True),
        (("rows", 0, "n_positive"), 2.0),
        (("rows", 0, "n_patients"), 999),
        (("rows", 0, "n_images"), None),
        (("together", 0, 0), 999),
        (("together", 0, 1), 999),
    ],
)
def test_counts_that_can_not_be_are_refused(store: Store, where: tuple[Any, ...], value: Any) -> None:
    given = json.loads(json.dumps(site_counts(store)))
    part = given
    for step in where[:-1]:
        part = part[step]
    part[where[-1]] = value
    with pytest.raises(ValueError, match="its label counts"):
        check_counts(given, store.vocabulary.findings, 1000)


def test_no_more_positives_and_negatives_than_images(store: Store) -> None:
    given = json.loads(json.dumps(site_counts(store)))
    row = given["rows"][0]
    row |= {"n_positive": row["n_images"], "n_negative": 1, "n_unknown": 0}
    with pytest.raises(ValueError, match="more than the whole"):
        check_counts(given, store.vocabulary.findings, 1000)
