"""Groups, thresholds and calibration from the sites as numbers: equal to what the stores at hand give, and no more."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nc_medfl.config import JobSettings, PrivacySettings, SiteConfig
from nc_medfl.evaluation import as_table
from nc_medfl.evaluation.decide import SiteScores
from nc_medfl.evaluation.groups import rare_in_groups
from nc_medfl.evaluation.measured import measure_sites
from nc_medfl.evaluation.patients import ScoredSplit
from nc_medfl.federation import keys
from nc_medfl.federation.answers import read_test
from nc_medfl.federation.final_test import FinalTest, final_test
from nc_medfl.federation.measure import about, with_mean
from nc_medfl.federation.refusal import RefusedUpdate
from nc_medfl.federation.site_tables import read_tables, tables_of, write_site_tables
from nc_medfl.labels import load_vocabulary

JOB = JobSettings(vocabulary="rsna1", evaluation={"resamples": 40, "groups": ("sex", "age")})
FINDINGS = load_vocabulary("rsna1").findings


def a_split(seed: int, n: int = 150, start: int = 0) -> ScoredSplit:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, len(FINDINGS))) < 0.35).astype(float)
    labels[rng.random(labels.shape) < 0.05] = np.nan
    scores = 1 / (1 + np.exp(-rng.normal(1.5 * np.nan_to_num(labels), 1.0)))
    return ScoredSplit(scores, labels, start + np.arange(n) // 2)


def a_site(seed: int) -> SiteScores:
    rng = np.random.default_rng([seed, 1])
    patients = np.arange(150) // 2
    known = {
        "sex": rng.choice(["F", "M", "O"], 75, p=[0.5, 0.45, 0.05])[patients],
        "age": rng.integers(20, 90, 75)[patients],
    }
    return SiteScores(a_split(seed), a_split(seed + 10, start=500), known)


def told_by(site: SiteScores, name: str, **privacy: Any) -> FinalTest:
    config = SiteConfig(name=name, store=Path("store"), privacy=PrivacySettings(**privacy))
    return final_test(site.validation, site.test, site.attributes, JOB, config)


def meta_of(told: FinalTest, name: str) -> dict[str, Any]:
    texts = {keys.ROWS: json.dumps(told.rows), keys.TABLES: json.dumps(told.tables)}
    return {**texts, "client_name": name, **({keys.HISTOGRAMS: told.histograms} if told.histograms else {})}


SITES = {"a": a_site(1), "b": a_site(2)}


@pytest.fixture(scope="module")
def metas() -> dict[str, dict[str, Any]]:
    return {name: meta_of(told_by(site, name), name) for name, site in SITES.items()}


def test_what_the_sites_send_is_what_the_stores_at_hand_give(metas: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    whole = measure_sites(SITES, about(JOB))
    rows = [row for meta in metas.values() for row in read_test(meta, FINDINGS, 1000)]
    sent = with_mean(as_table(rows))
    expected = whole.rows[
        (whole.rows["site"] != "pooled") & ~whole.rows["metric"].isin(["positives", "annotated", "unknown"])
    ]
    order = ["site", "group", "finding", "metric"]
    pd.testing.assert_frame_equal(
        sent.sort_values(order, ignore_index=True), expected.sort_values(order, ignore_index=True)
    )
    assert {"sex=F", "sex=M", "sex=O"} <= set(sent["group"])
    write_site_tables(tmp_path, metas, JOB, pytest.fail)
    tables = tables_of(tmp_path)
    for name, table in tables.items():
        here = whole.tables[name]
        if name == "thresholds.csv":
            here = here[(here["scope"] == "site")].reset_index(drop=True)
        if name == "reliability.csv":
            here = here[here["n"] >= 5].reset_index(drop=True)
        pd.testing.assert_frame_equal(table, here, check_dtype=False)
    assert set(tables) == {"thresholds.csv", "calibration.csv", "reliability.csv", "score_histograms.csv"}
    assert all(len(table) for table in tables.values())


def test_a_site_may_ask_for_larger_groups_than_the_job_and_not_for_smaller_ones() -> None:
    n_patients = {g: len(set(SITES["a"].test.patients[SITES["a"].attributes["sex"] == g])) for g in "FMO"}
    assert n_patients["O"] < 20 < min(n_patients["F"], n_patients["M"]) <= 40
    for minimum, hidden in ((1, {"sex=O"}), (41, {"sex=F", "sex=M", "sex=O"})):
        rows = pd.DataFrame(told_by(SITES["a"], "a", min_group_patients=minimum).rows)
        withheld = rows[rows["reason"].str.startswith("withheld") & rows["group"].str.startswith("sex")]
        assert set(withheld["group"]) == hidden
        assert withheld["value"].isna().all()
        assert not withheld["n_annotated"].any()


def test_a_rare_finding_stays_out_of_every_table() -> None:
    told = told_by(SITES["a"], "a", min_test_positives=1000)
    assert all(row["value"] is None for row in told.rows)
    for rows in told.tables.values():
        assert all(row["reason"].startswith("withheld by the site") for row in rows if row["finding"] != "macro")
        assert all(v in (None, 0) for row in rows for k, v in row.items() if k.startswith(("test_", "val_")))
    assert told.tables["reliability"] == []


def test_few_positives_of_validation_stay_though_test_has_enough() -> None:
    labels = SITES["a"].validation.labels.copy()
    labels[np.flatnonzero(labels[:, 0] == 1)[3:], 0] = 0
    site = SiteScores(
        ScoredSplit(SITES["a"].validation.scores, labels, SITES["a"].validation.patients), SITES["a"].test, {}
    )
    told = told_by(site, "a", min_test_positives=5)
    rows = told.tables["thresholds"] + told.tables["calibration"]
    assert len(rows) > 5
    for row in rows:
        assert row["val_n_positive"] is None
        assert row["test_n_positive"] >= 5
        assert all(v is None for k, v in row.items() if k.startswith("val_") and k != "val_n_annotated")
    assert any(row.get("threshold") for row in rows)
    assert read_tables(meta_of(told, "a"), FINDINGS)
    plain = told_by(site, "a")
    assert {row["val_n_positive"] for row in plain.tables["thresholds"]} == {3}


def test_without_histograms_no_curve_leaves_either() -> None:
    told = told_by(SITES["a"], "a", allow_histograms=False)
    assert told.histograms is None
    assert told.tables["reliability"] == []
    assert told.tables["calibration"]


def test_a_finding_that_one_group_withholds_can_not_be_had_from_the_others() -> None:
    # Positives of F, M, O: 9, 6, 1 with a minimum of 3. O alone would follow from all less F and M, so M goes too.
    sex = np.array(["F"] * 20 + ["M"] * 20 + ["O"] * 5)
    labels = np.zeros((45, 2))
    labels[:9, 0] = labels[20:26, 0] = labels[40, 0] = 1
    labels[:9, 1] = labels[20:26, 1] = 1  # nobody of O: that there is none is no patient's
    found = rare_in_groups({"sex": sex}, labels, 3)
    assert {group: hidden.tolist() for group, hidden in found.items()} == {
        "sex=F": [False, False],
        "sex=M": [True, False],
        "sex=O": [True, True],
    }


def _spoil(name: str, value: Any) -> Callable[[Any], None]:
    def change(tables: Any) -> None:
        tables["thresholds"][0][name] = value

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_spoil("site", "b"), "another site"),
        (_spoil("finding", "<b>"), "not in the vocabulary"),
        (_spoil("threshold", "1"), "numbers"),
        (_spoil("patient", "x"), "unknown columns"),
        (_spoil("rule", "x" * 65), "short names"),
        (_spoil("reason", "two\nlines"), "no line of text"),
        (lambda tables: tables["thresholds"].append(tables["thresholds"][0]), "twice"),
        (lambda tables: tables["calibration"].extend(tables["calibration"] * 200), "too long"),
        (lambda tables: tables.update(more=[]), "others than the known"),
        (lambda tables: tables.update(thresholds={}), "no list"),
    ],
)
def test_malformed_tables_are_refused(
    metas: dict[str, dict[str, Any]], tmp_path: Path, spoil: Callable[[Any], None], words: str
) -> None:
    tables = json.loads(metas["a"][keys.TABLES])
    spoil(tables)
    meta = copy.copy(metas["a"]) | {keys.TABLES: json.dumps(tables)}
    with pytest.raises(RefusedUpdate, match=words):
        read_tables(meta, FINDINGS)
    told: list[str] = []
    write_site_tables(tmp_path, {"a": meta, "b": metas["b"]}, JOB, told.append)
    assert len(told) == 1
    assert set(tables_of(tmp_path)["thresholds.csv"]["site"]) == {"b"}


def test_a_site_of_an_earlier_version_sends_no_tables(tmp_path: Path) -> None:
    assert read_tables({"client_name": "a"}, FINDINGS) == {}
    assert tables_of(tmp_path) == {}
