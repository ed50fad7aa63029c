"""Metrics against scikit-learn, over thousands of columns with ties and degenerate ones."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from nc_medfl.metrics.classification import (
    METRICS,
    THRESHOLD_METRICS,
    auc,
    average_precision,
    confusion,
    equal_mass_bins,
    measure,
    prepare_sample,
    reasons,
)

SKLEARN_AT_THRESHOLD = {
    "f1": sk.f1_score,
    "sensitivity": sk.recall_score,
    "specificity": lambda y, p: sk.recall_score(y, p, pos_label=0),
    "ppv": sk.precision_score,
    "npv": lambda y, p: sk.precision_score(y, p, pos_label=0),
    "mcc": sk.matthews_corrcoef,
    "accuracy": sk.accuracy_score,
}


def _case(seed: int, n_findings: int = 60):
    """Scores, labels and thresholds: few or many distinct scores, rare or common labels, some unknown."""
    rng = np.random.default_rng(seed)
    n_images = int(rng.integers(1, 40))
    levels = rng.choice([2, 3, 10, 1_000_000], size=n_findings)
    scores = rng.integers(0, levels, size=(n_images, n_findings)) / (levels - 1)
    labels = (rng.random((n_images, n_findings)) < rng.choice([0.05, 0.3, 0.9], n_findings)).astype(float)
    labels[rng.random(labels.shape) < rng.choice([0, 0.3, 0.9], n_findings)] = np.nan
    return scores, labels, rng.choice([0.0, 0.3, 0.5, 1.0], n_findings)


def _defined(name: str, y: np.ndarray, called: np.ndarray) -> bool:
    """When a metric is defined, from its meaning alone."""
    both_labels, both_calls = len(set(y)) == 2, len(set(called)) == 2
    return {
        "f1": 1 in y,
        "sensitivity": 1 in y,
        "specificity": 0 in y,
        "ppv": 1 in called,
        "npv": 0 in called,
        "mcc": both_labels and both_calls,
        "accuracy": len(y) > 0,
    }[name]


@pytest.mark.parametrize("seed", range(40))
def test_rank_metrics_equal_scikit_learn(seed):
    scores, labels, _ = _case(seed)
    area, precision = auc(scores, labels), average_precision(scores, labels)
    for c in range(scores.shape[1]):
        known = ~np.isnan(labels[:, c])
        y, s = labels[known, c], scores[known, c]
        if len(set(y)) == 2:
            assert area[c] == pytest.approx(sk.roc_auc_score(y, s), abs=1e-12)
        else:
            assert np.isnan(area[c])
        if 1 in y:
            assert precision[c] == pytest.approx(sk.average_precision_score(y, s), abs=1e-12)
        else:
            assert np.isnan(precision[c])


@pytest.mark.parametrize("seed", range(12))
def test_threshold_metrics_equal_scikit_learn(seed):
    scores, labels, thresholds = _case(seed)
    table = confusion(scores, labels, thresholds)
    for name, metric in THRESHOLD_METRICS.items():
        values = metric(table)
        for c in range(scores.shape[1]):
            known = ~np.isnan(labels[:, c])
            y, called = labels[known, c], (scores[known, c] >= thresholds[c]).astype(float)
            if _defined(name, y, called):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    expected = SKLEARN_AT_THRESHOLD[name](y, called)
                assert values[c] == pytest.approx(expected, abs=1e-12), name
            else:
                assert np.isnan(values[c]), name


@pytest.mark.parametrize("seed", range(10))
def test_brier_and_the_floor_of_f1_equal_scikit_learn(seed):
    scores, labels, _ = _case(seed)
    values = measure(prepare_sample(scores, labels))
    for c in range(scores.shape[1]):
        known = ~np.isnan(labels[:, c])
        y, s = labels[known, c], scores[known, c]
        if len(y):
            assert values["brier"][0, c] == pytest.approx(np.mean((y - s) ** 2), abs=1e-12)
        if 1 in y:
            assert values["f1_all_positive"][0, c] == pytest.approx(sk.f1_score(y, np.ones_like(y)), abs=1e-12)
        else:
            assert np.isnan(values["f1_all_positive"][0, c])


@pytest.mark.parametrize("seed", range(10))
def test_micro_is_the_metric_of_all_known_pairs(seed):
    scores, labels, thresholds = _case(seed)
    values = measure(prepare_sample(scores, labels, thresholds))
    known = ~np.isnan(labels)
    y, s, called = labels[known], scores[known], (scores >= thresholds)[known].astype(float)
    assert values["auc"][0, -1] == pytest.approx(sk.roc_auc_score(y, s), abs=1e-12)
    assert values["average_precision"][0, -1] == pytest.approx(sk.average_precision_score(y, s), abs=1e-12)
    assert values["f1"][0, -1] == pytest.approx(sk.f1_score(y, called), abs=1e-12)
    assert values["mcc"][0, -1] == pytest.approx(sk.matthews_corrcoef(y, called), abs=1e-12)
    assert values["brier"][0, -1] == pytest.approx(sk.brier_score_loss(y, s), abs=1e-12)


def test_macro_is_the_mean_over_the_findings_that_are_defined_and_says_how_many():
    # Finding 0: 2 positives, 2 negatives, three of four pairs in order -> 0.75. Finding 1: all in order -> 1.
    # Finding 2 has no positive, finding 3 no known label.
    scores = np.array([[0.9, 0.9, 0.5, 0.5], [0.2, 0.8, 0.4, 0.5], [0.5, 0.1, 0.3, 0.5], [0.1, 0.2, 0.2, 0.5]])
    labels = np.array([[1, 1, 0, np.nan], [1, 1, 0, np.nan], [0, 0, 0, np.nan], [0, 0, 0, np.nan]])
    sample = prepare_sample(scores, labels)
    values = measure(sample)
    assert values["auc"][0, :5] == pytest.approx([0.75, 1.0, np.nan, np.nan, 0.875], nan_ok=True)
    texts = reasons(sample, values)["auc"]
    assert texts[:5] == ["", "", "no positive", "no annotated image", "mean over 2 of 4 findings"]
    assert texts[5] == "pairs of 3 of 4 findings"


def _slow_ece(scores, labels, bins):
    """Equal-mass calibration error, bin by bin: a score's bin is that of the middle of its tied ranks."""
    total = 0.0
    for b in range(bins):
        inside = []
        for i, s in enumerate(scores):
            middle = sum(other < s for other in scores) + sum(other == s for other in scores) / 2
            if int(bins * middle / len(scores)) == b:
                inside.append(i)
        if inside:
            total += len(inside) * abs(np.mean([scores[i] for i in inside]) - np.mean([labels[i] for i in inside]))
    return total / len(scores)


@pytest.mark.parametrize("seed", range(5))
def test_calibration_error_equals_a_slow_reference(seed):
    scores, labels, _ = _case(seed, 20)
    values = measure(prepare_sample(scores, labels, bins=4))["ece"][0]
    for c in range(20):
        known = ~np.isnan(labels[:, c])
        if known.any():
            expected = _slow_ece(list(scores[known, c]), list(labels[known, c]), 4)
            assert values[c] == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 400), st.integers(1, 12))
def test_bins_of_distinct_scores_differ_by_one_at_most(n, bins):
    sizes = np.bincount(equal_mass_bins(np.random.default_rng(n).permutation(n) / n, bins), minlength=bins)
    assert len(sizes) == bins
    assert sizes.max() - sizes.min() <= 1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_whole_weights_are_the_same_as_repeated_images(seed):
    scores, labels, thresholds = _case(seed, 6)
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, size=len(scores))
    weighted = measure(prepare_sample(scores, labels, thresholds), counts[:, None].astype(np.float32))
    repeated = measure(prepare_sample(*(np.repeat(a, counts, axis=0) for a in (scores, labels)), thresholds))
    for name in METRICS:
        if name != "ece":  # its bins are those of the sample
            np.testing.assert_allclose(weighted[name], repeated[name], atol=1e-6, err_msg=name)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_the_order_of_images_and_a_rising_map_of_scores_change_no_auc(seed):
    scores, labels, _ = _case(seed, 6)
    order = np.random.default_rng(seed).permutation(len(scores))
    np.testing.assert_allclose(auc(scores**3, labels), auc(scores, labels), atol=1e-12)
    np.testing.assert_allclose(auc(scores[order], labels[order]), auc(scores, labels), atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_a_value_is_undefined_exactly_where_a_reason_says_so(seed):
    scores, labels, thresholds = _case(seed, 8)
    thresholds[0] = np.nan
    sample = prepare_sample(scores, labels, thresholds, ["no positive in validation"] + [""] * 7)
    values = measure(sample)
    texts = reasons(sample, values)
    for name, value in values.items():
        for k in range(8):
            assert np.isnan(value[0, k]) == bool(texts[name][k]), (name, k)
            assert texts[name][k] != "undefined"
        assert all(texts[name][k] for k in (8, 9) if np.isnan(value[0, k]))


def test_each_lack_is_named():
    scores = np.array([[0.9, 0.9, 0.1, 0.9], [0.8, 0.2, 0.2, 0.9]])
    labels = np.array([[0, 1, 1, 0], [0, 1, 0, 1]])
    sample = prepare_sample(scores, labels, [0.5, 0.5, 0.5, 0.5])
    texts = reasons(sample, measure(sample))
    assert [texts["auc"][k] for k in range(4)] == ["no positive", "no negative", "", ""]
    assert texts["sensitivity"][0] == "no positive"
    assert texts["specificity"][1] == "no negative"
    assert texts["ppv"][2] == "nothing predicted positive"
    assert texts["npv"][3] == "nothing predicted negative"
    assert texts["mcc"][2] == "nothing predicted positive"


def test_a_score_that_is_no_number_leaves_its_finding_out():
    scores = np.array([[0.9, np.nan], [0.1, 0.2], [0.3, 0.7]])
    labels = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    sample = prepare_sample(scores, labels, [0.5, 0.5])
    values = measure(sample)
    texts = reasons(sample, values)
    assert np.isnan(values["auc"][0, 1])
    assert texts["auc"][1:] == ["a score is not a number", "mean over 1 of 2 findings", "pairs of 1 of 2 findings"]
    assert all(np.isfinite(values[name][0, [0, 2, 3]]).all() for name in METRICS)


def test_nan_scores_of_unknown_pairs_don_t_matter():
    scores = np.array([[0.9, np.nan], [0.1, 0.2], [0.3, 0.7]])
    labels = np.array([[1.0, np.nan], [0.0, 0.0], [0.0, 1.0]])
    assert auc(scores, labels) == pytest.approx([1.0, 1.0])


def test_no_image_at_all_is_undefined_everywhere():
    sample = prepare_sample(np.empty((0, 3)), np.empty((0, 3)), [0.5] * 3)
    values = measure(sample)
    assert all(np.isnan(value).all() for value in values.values())
    assert set(reasons(sample, values)["accuracy"]) == {"no annotated image", "undefined for every finding"}


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([[0.5, 0.5]], [[1.0]], r"\[N, C\]"),
        ([[0.5]], [[2.0]], "0, 1 or NaN"),
        ([[1.5]], [[1.0]], "probability"),
        ([[-0.1]], [[1.0]], "probability"),
    ],
)
def test_what_is_no_score_or_label_is_refused(scores, labels, words):
    with pytest.raises(ValueError, match=words):
        prepare_sample(scores, labels)
