"""The long table: its rows, its means, its files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from nc_medfl.errors import UserError
from nc_medfl.evaluation import choose_thresholds, evaluate_site, mean_over_sites, read_metrics, write_metrics
from nc_medfl.evaluation.tables import COLUMNS
from nc_medfl.evaluation.thresholds import NO_VALIDATION, Thresholds
from nc_medfl.labels import Vocabulary

VOCABULARY = Vocabulary("three", ("Mass", "NA", "Hernia"))


def _evaluate(site="A", seed=0, *, n=80, thresholds="chosen", hernia=True, resamples=50):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 3)) < 0.4).astype(float)
    if not hernia:
        labels[:, 2] = 0
    scores = np.clip(0.3 * labels + 0.7 * rng.random((n, 3)), 0, 1)
    chosen = choose_thresholds(scores, labels) if thresholds == "chosen" else thresholds
    rows = evaluate_site(
        scores,
        labels,
        np.arange(n) // 2,
        thresholds=chosen,
        run="r",
        model="m",
        site=site,
        split="test",
        vocabulary=VOCABULARY,
        resamples=resamples,
        seed=0,
    )
    return rows, scores, labels


def _cell(rows, finding, metric, site="A"):
    part = rows[(rows.finding == finding) & (rows.metric == metric) & (rows.site == site)]
    assert len(part) == 1
    return part.iloc[0]


def test_a_row_for_each_metric_of_each_finding_macro_and_micro():
    rows, _, _ = _evaluate()
    assert tuple(rows.columns) == COLUMNS
    expected = [
        "auc",
        "average_precision",
        "f1",
        "sensitivity",
        "specificity",
        "ppv",
        "npv",
        "mcc",
        "accuracy",
        "brier",
        "ece",
        "f1_all_positive",
    ]
    assert list(rows.metric.unique()) == [*expected, "threshold"]
    assert len(rows) == len(expected) * 5 + 3
    assert set(rows.finding) == {"Mass", "NA", "Hernia", "macro", "micro"}


def test_values_counts_and_intervals_stand_where_they_belong():
    rows, scores, labels = _evaluate()
    cell = _cell(rows, "NA", "auc")
    assert cell["value"] == pytest.approx(roc_auc_score(labels[:, 1], scores[:, 1]))
    assert cell["low"] < cell["value"] < cell["high"]
    assert (cell["n_positive"], cell["n_annotated"]) == (int(labels[:, 1].sum()), 80)
    assert _cell(rows, "micro", "auc")["n_annotated"] == 240
    assert _cell(rows, "macro", "auc")["reason"] == "mean over 3 of 3 findings"


def test_an_undefined_metric_is_empty_with_its_reason_and_the_macro_leaves_it_out():
    rows, _, _ = _evaluate(hernia=False)
    cell = _cell(rows, "Hernia", "auc")
    assert np.isnan(cell["value"])
    assert np.isnan(cell["low"])
    assert cell["reason"] == "no positive"
    assert _cell(rows, "Hernia", "f1")["reason"] == "no positive in validation"
    macro = _cell(rows, "macro", "auc")
    others = [_cell(rows, name, "auc")["value"] for name in ("Mass", "NA")]
    assert macro["value"] == pytest.approx(np.mean(others))
    assert macro["reason"] == "mean over 2 of 3 findings"
    assert macro["n_annotated"] == 160


@pytest.mark.parametrize("thresholds", [None, Thresholds(np.empty(0), ()), Thresholds.none(3)])
def test_without_validation_rows_threshold_metrics_are_empty_and_say_so(thresholds):
    rows, _, _ = _evaluate(thresholds=thresholds)
    for metric in ("f1", "sensitivity", "specificity", "ppv", "npv", "mcc", "accuracy", "threshold"):
        for finding in ("Mass", "NA", "Hernia"):
            cell = _cell(rows, finding, metric)
            assert np.isnan(cell["value"])
            assert cell["reason"] == NO_VALIDATION
    assert _cell(rows, "micro", "f1")["reason"] == NO_VALIDATION
    assert _cell(rows, "Mass", "brier")["value"] > 0


def test_a_site_without_a_test_image_has_rows_that_say_so():
    rows = evaluate_site(
        np.empty((0, 0)),
        np.empty((0, 0)),
        np.empty(0),
        thresholds=None,
        run="r",
        model="m",
        site="A",
        split="test",
        vocabulary=VOCABULARY,
    )
    assert rows["value"].isna().all()
    assert (rows["reason"] != "").all()
    assert _cell(rows, "Mass", "auc")["reason"] == "no annotated image"


def test_the_mean_over_sites_counts_the_sites_where_a_value_is_defined():
    a, b = _evaluate("A", 1)[0], _evaluate("B", 2, hernia=False)[0]
    both = pd.concat([a, b])
    mean = mean_over_sites(both)
    assert set(mean.site) == {"all"}
    assert len(mean) == len(a)
    cell = _cell(mean, "Mass", "auc", "all")
    values = [_cell(a, "Mass", "auc")["value"], _cell(b, "Mass", "auc", "B")["value"]]
    assert cell["value"] == pytest.approx(np.mean(values))
    assert cell["reason"] == "mean over 2 of 2 sites; rough interval: fewer than 50 of each label at 2 of these sites"
    hernia = _cell(mean, "Hernia", "auc", "all")
    assert hernia["value"] == pytest.approx(_cell(a, "Hernia", "auc")["value"])
    assert hernia["reason"].startswith("mean over 1 of 2 sites")
    nowhere = mean_over_sites(b)
    assert _cell(nowhere, "Hernia", "auc", "all")["reason"] == "undefined at every site"


def test_the_interval_of_the_mean_is_about_that_of_resampling_each_site_s_patients():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    parts = [_evaluate(site, seed, n=240, resamples=1000) for seed, site in enumerate("ABC")]
    cell = _cell(mean_over_sites(pd.concat([rows for rows, _, _ in parts])), "Mass", "auc", "all")
    means = []
    for _ in range(600):
        aucs = []
        for _, scores, labels in parts:
            images = 2 * rng.integers(0, 120, 120)[:, None] + np.arange(2)  # patients have two images each
            aucs.append(roc_auc_score(labels[images.ravel(), 0], scores[images.ravel(), 0]))
        means.append(np.mean(aucs))
    np.testing.assert_allclose([cell["low"], cell["high"]], np.quantile(means, [0.025, 0.975]), atol=0.006)


def test_a_mean_has_no_interval_where_a_site_has_none_and_says_so():
    a, b = _evaluate("A", 1)[0], _evaluate("B", 2, resamples=0)[0]
    cell = _cell(mean_over_sites(pd.concat([a, b])), "Mass", "auc", "all")
    assert np.isnan(cell["low"])
    assert cell["reason"] == "mean over 2 of 2 sites; no interval: one of these sites has none"
    assert _cell(mean_over_sites(b), "Mass", "auc", "all")["reason"] == "mean over 1 of 1 sites"  # none was asked for


def test_rows_of_all_and_pooled_take_no_part_in_the_mean():
    a = _evaluate("A", 1)[0]
    with_others = pd.concat([a, mean_over_sites(a), _evaluate("pooled", 5)[0]])
    pd.testing.assert_frame_equal(mean_over_sites(with_others), mean_over_sites(a))


def test_rows_that_travelled_as_json_are_rows_again():
    a = _evaluate("A", 1, hernia=False)[0]
    sent = json.loads(json.dumps(a.astype(object).where(a.notna(), None).to_dict("records")))
    pd.testing.assert_frame_equal(mean_over_sites(pd.DataFrame(sent)), mean_over_sites(a))


def test_files_hold_the_same_rows_and_the_same_bytes_each_time(tmp_path):
    rows = pd.concat([_evaluate("A", 1)[0], _evaluate("B", 2, hernia=False)[0]])
    (tmp_path / "again").mkdir()
    first = [path.read_bytes() for path in write_metrics(rows, tmp_path)]
    second = [path.read_bytes() for path in write_metrics(rows.copy(), tmp_path / "again")]
    assert first == second
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "metrics.csv", "metrics.json"]
    table = read_metrics(tmp_path)
    document = json.loads(first[1])
    assert document["schema_version"] == 1
    assert len(document["rows"]) == len(rows) == len(table)
    for row, (_, read) in zip(document["rows"], table.iterrows(), strict=True):
        assert row["finding"] == read["finding"]
        if row["value"] is None:
            assert np.isnan(read["value"])
        else:
            assert row["value"] == read["value"]
    # Written again from what was read: nothing is lost.
    assert write_metrics(table, tmp_path / "again")[0].read_bytes() == first[0]


def test_a_finding_called_na_stays_a_finding(tmp_path):
    write_metrics(_evaluate()[0], tmp_path)
    assert "NA" in set(read_metrics(tmp_path)["finding"])


@pytest.mark.parametrize("content", [None, b"", b"a,b\n1,2\n", b"\xff\xfe\x00"])
def test_a_missing_or_damaged_table_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.csv.*nc-medfl evaluate") as error:
        read_metrics(tmp_path)
    assert "\n" not in str(error.value)
