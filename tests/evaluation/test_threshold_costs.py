"""``thresholds.csv``: chosen on validation alone, and what it costs on test."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score

from nc_medfl.evaluation.threshold_costs import COSTS, all_rules, threshold_table
from nc_medfl.evaluation.thresholds import choose_thresholds


def _site(seed, n=200, positive=0.2, shift=0.0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < positive).astype(float)
    labels[rng.random((n, 2)) < 0.1] = np.nan
    scores = 1 / (1 + np.exp(-(rng.normal(size=(n, 2)) + 1.5 * np.nan_to_num(labels) - 1 + shift)))
    return SimpleNamespace(scores=scores, labels=labels, patients=np.arange(n) // 2)


def _table(validation, test, resamples=0, **targets):
    return threshold_table(
        validation, test, ["A", "B"], rules=all_rules(**targets), run="r", model="m", resamples=resamples
    )


def _row(table, **wanted):
    for name, value in wanted.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 100_000), st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0]))
def test_a_target_sensitivity_is_reached_by_no_higher_threshold(seed, target):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    scores, y = rng.integers(0, rng.choice([3, 8, 10**6]), n) / 10**6, np.append([0, 1], rng.integers(0, 2, n - 2))
    chosen = choose_thresholds(scores[:, None], y[:, None], rule="sensitivity", target=target).values[0]
    assert recall_score(y, scores >= chosen) >= target
    higher = [t for t in np.unique(scores) if t > scores[scores >= chosen].min()]
    assert all(recall_score(y, scores >= t) < target for t in higher)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 100_000), st.sampled_from([0.2, 0.5, 0.8, 1.0]))
def test_a_target_ppv_is_reached_with_the_most_positives_found_or_declared_out_of_reach(seed, target):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    scores, y = rng.integers(0, rng.choice([3, 8, 10**6]), n) / 10**6, np.append([0, 1], rng.integers(0, 2, n - 2))
    found = choose_thresholds(scores[:, None], y[:, None], rule="ppv", target=target)
    reached = [
        recall_score(y, scores >= t) for t in np.unique(scores) if precision_score(y, scores >= t) >= target - 1e-12
    ]
    if np.isnan(found.values[0]):
        assert not reached
        assert "no threshold reaches a PPV" in found.reasons[0]
    else:
        assert precision_score(y, scores >= found.values[0]) >= target - 1e-12
        assert recall_score(y, scores >= found.values[0]) == pytest.approx(max(reached))


def test_test_labels_and_scores_play_no_part_in_the_choice():
    validation = {"a": _site(0), "b": _site(1)}
    one = _table(validation, {"a": _site(2), "b": _site(3)})
    other = _table(validation, {"a": _site(4, shift=3.0), "b": _site(5, positive=0.7)})
    np.testing.assert_array_equal(one["threshold"], other["threshold"])


def test_what_a_threshold_costs_equals_scikit_learn():
    validation, test = {"a": _site(0)}, {"a": _site(2)}
    row = _row(_table(validation, test), site="a", rule="youden", finding="B")
    known = ~np.isnan(test["a"].labels[:, 1])
    y, called = test["a"].labels[known, 1], test["a"].scores[known, 1] >= row["threshold"]
    assert row["test_sensitivity"] == pytest.approx(recall_score(y, called))
    assert row["test_specificity"] == pytest.approx(recall_score(y, called, pos_label=0))
    assert row["test_ppv"] == pytest.approx(precision_score(y, called))
    assert row["test_npv"] == pytest.approx(precision_score(y, called, pos_label=0))
    assert (row["test_tp"], row["test_fn"]) == ((y * called).sum(), (y * ~called).sum())


def test_the_federations_threshold_is_the_one_of_all_validation_patients_together():
    validation, test = {"a": _site(0), "b": _site(1, shift=1.0)}, {"a": _site(2), "b": _site(3)}
    table = _table(validation, test)
    scores, labels = (np.concatenate([getattr(validation[s], name) for s in "ab"]) for name in ("scores", "labels"))
    expected = choose_thresholds(scores, labels).values[0]
    for site in ("a", "b", "pooled"):
        assert _row(table, site=site, scope="federation", rule="youden", finding="A")["threshold"] == expected
    assert set(table[table["site"] == "pooled"]["scope"]) == {"federation"}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda labels: np.where(labels == 1, 0, labels), "no positive in validation"),
        (lambda labels: np.where(labels == 0, 1, labels), "no negative in validation"),
        (lambda labels: np.full_like(labels, np.nan), "no annotated image in validation"),
    ],
)
def test_a_threshold_that_validation_cannot_give_is_empty_with_its_reason(spoil, reason):
    found = _site(0)
    found.labels = spoil(found.labels)
    table = _table({"a": found}, {"a": _site(1)}, resamples=20)
    chosen = table[table["rule"] != "fixed"]
    assert set(chosen["reason"]) == {reason}
    assert chosen[["threshold", "test_sensitivity", "test_ppv_low", "test_tp"]].isna().all().all()
    assert table[table["rule"] == "fixed"]["test_sensitivity"].notna().all()


def test_a_site_without_validation_has_no_threshold_of_its_own_but_the_federations():
    table = _table({"a": _site(0)}, {"a": _site(1), "b": _site(2)})
    own = _row(table, site="b", scope="site", rule="f1", finding="A")
    assert own["reason"] == "no validation rows to choose a threshold on"
    assert np.isfinite(_row(table, site="b", scope="federation", rule="f1", finding="A")["test_ppv"])


def test_intervals_hold_their_value_and_resample_patients():
    table = _table({"a": _site(0)}, {"a": _site(1)}, resamples=300)
    for name in COSTS:
        told = table[table[f"test_{name}"].notna()]
        assert (told[f"test_{name}_low"] <= told[f"test_{name}"]).all()
        assert (told[f"test_{name}_high"] >= told[f"test_{name}"]).all()
    one = _site(1)
    one.patients = np.zeros_like(one.patients)
    alone = _table({"a": _site(0)}, {"a": one}, resamples=50)
    assert alone["test_sensitivity_low"].isna().all()
