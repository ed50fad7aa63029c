"""DeLong's variance, and the AUC bootstrap that sorts once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from nc_medfl.metrics.bootstrap import bca_intervals, bootstrap_auc, patient_weights
from nc_medfl.metrics.delong import delong, difference_p


def test_delong_by_hand():
    # Positives 3, 1 and negatives 2, 0: placements 1 and 1/2 each way, so AUC 3/4 and each variance is
    # ((1/4)^2 * 2) / 1 / 2 = 1/16; together 1/8.
    auc, covariance = delong([[3, 1, 2, 0]], [1, 1, 0, 0])
    assert auc[0] == 0.75
    assert covariance[0, 0] == pytest.approx(1 / 8)


def test_delong_of_two_equal_scores_has_no_difference_to_test():
    scores = np.random.default_rng(0).random(50)
    auc, covariance = delong([scores, scores], np.arange(50) % 2)
    assert np.isnan(difference_p(auc, covariance))


@pytest.mark.parametrize("images", [1, 3])
def test_delong_agrees_with_the_bootstrap(images):
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(300), images)
    labels = np.repeat((rng.random(300) < 0.4).astype(float), images)
    mood = np.repeat(rng.normal(size=300), images)
    scores = 1 / (1 + np.exp(-(labels + mood + 0.3 * rng.normal(size=len(labels)))))
    _, covariance = delong([scores], labels, patients)
    draws = bootstrap_auc(scores[:, None], labels[:, None], patients, resamples=2000)
    assert np.sqrt(covariance[0, 0]) == pytest.approx(draws.std(), rel=0.08)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), levels=st.integers(1, 8))
def test_the_resampled_auc_is_scikit_learns_of_the_repeated_rows(seed, n, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (n, 2)) / levels
    labels = rng.choice([0.0, 1.0, np.nan], (n, 2))
    patients = rng.integers(0, n, n)
    found = bootstrap_auc(scores, labels, patients, resamples=7, seed=1)
    weights = next(patient_weights(patients, 7, 1)).astype(int)
    for b in range(7):
        rows = np.repeat(np.arange(n), weights[:, b])
        for c in range(2):
            known = rows[~np.isnan(labels[rows, c])]
            both = len(set(labels[known, c])) == 2
            expected = roc_auc_score(labels[known, c], scores[known, c]) if both else np.nan
            np.testing.assert_allclose(found[b, c], expected, atol=1e-12)


def test_bca_equals_scipy_for_a_mean():
    from scipy.stats import bootstrap

    data = np.random.default_rng(2).exponential(size=60)
    expected = bootstrap((data,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(3))
    draws = np.random.default_rng(4).choice(data, (20_000, 60)).mean(axis=1)[:, None]
    left_out = np.array([[np.delete(data, k).mean()] for k in range(60)])
    found = bca_intervals(draws, np.array([data.mean()]), left_out)
    assert found.low[0] == pytest.approx(expected.confidence_interval.low, abs=0.02)
    assert found.high[0] == pytest.approx(expected.confidence_interval.high, abs=0.02)
