"""Calibration maps against scikit-learn, scipy and hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.calibration import _SigmoidCalibration
from sklearn.metrics import log_loss

from nc_medfl.metrics.calibration import (
    EQUAL_SCORES,
    NO_ERROR,
    WRONG_WAY,
    fit_platt,
    fit_temperature,
    log_losses,
    logit,
    reliability_curve,
    sigmoid,
    wilson,
)


def _overconfident(seed: int, n: int, factor: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(-0.5, 1.2, n)
    return sigmoid(factor * z), (rng.random(n) < sigmoid(z)).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_temperature_is_where_scipy_finds_the_least_log_loss(seed):
    scores, labels = _overconfident(seed, 400)
    z = logit(scores)
    found = minimize_scalar(lambda b: log_loss(labels, sigmoid(b * z)), bounds=(0.01, 10), method="bounded")
    assert fit_temperature(scores, labels).slope == pytest.approx(found.x, rel=1e-3)


def test_temperature_of_logits_that_are_two_and_a_half_times_too_large_is_two_and_a_half():
    assert fit_temperature(*_overconfident(0, 40_000)).temperature == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_platt_equals_scikit_learn(seed):
    scores, labels = _overconfident(seed, 300)
    reference = _SigmoidCalibration().fit(logit(scores), labels)
    ours = fit_platt(scores, labels)
    assert ours.slope == pytest.approx(-reference.a_, abs=2e-4)
    assert ours.intercept == pytest.approx(-reference.b_, abs=2e-4)


def test_platt_stays_finite_where_a_finding_is_told_without_error():
    found = fit_platt([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert found.reason == ""
    assert np.isfinite([found.slope, found.intercept]).all()


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([], [], "no annotated image in validation"),
        ([0.2, 0.4], [np.nan, np.nan], "no annotated image in validation"),
        ([0.2, 0.4], [0, 0], "no positive in validation"),
        ([0.2, 0.4], [1, np.nan], "no negative in validation"),
        ([0.3, 0.3, 0.3], [0, 1, 1], EQUAL_SCORES),
        ([0.9, 0.8, 0.2, 0.6], [0, 0, 1, 0], WRONG_WAY),
        ([0.2, np.nan], [0, 1], "a score is not a number in validation"),
    ],
)
def test_a_fit_without_ground_is_undefined_with_its_reason(scores, labels, reason):
    for fit in (fit_temperature, fit_platt):
        found = fit(scores, labels)
        assert np.isnan(found.slope)
        assert found.reason == reason
        assert np.isnan(found.apply([0.5])).all()


def test_no_temperature_is_best_where_all_pairs_are_on_their_side_of_a_half():
    assert fit_temperature([0.1, 0.2, 0.8], [0, 0, 1]).reason == NO_ERROR


def test_scores_of_0_and_1_are_fitted_and_mapped_without_infinities():
    scores, labels = [0.0, 1.0, 1.0, 0.0, 0.5, 0.3], [0, 1, 0, 0, 1, 0]
    for fit in (fit_temperature, fit_platt):
        found = fit(scores, labels)
        assert np.isfinite(found.slope)
        assert np.isfinite(found.apply(scores)).all()


@settings(max_examples=150, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=2, max_size=30),
)
def test_no_case_makes_a_fit_fail_and_a_temperature_never_raises_the_log_loss_it_was_fitted_on(pairs):
    scores, labels = np.array(pairs).T
    found, platt = fit_temperature(scores, labels), fit_platt(scores, labels)
    assert (found.reason == "") == np.isfinite(found.slope)
    assert (platt.reason == "") == np.isfinite(platt.slope)
    if not found.reason:
        assert found.slope > 0
        # The map itself keeps to [1e-12, 1 - 1e-12], so compare what it optimises.
        z = logit(scores)
        before, after = (np.mean(np.logaddexp(0, b * z) - labels * b * z) for b in (1.0, found.slope))
        assert after <= before + 1e-9


def test_log_loss_equals_scikit_learn():
    rng = np.random.default_rng(0)
    scores, labels = rng.random(50), (rng.random(50) < 0.3).astype(float)
    assert log_losses(scores, labels).mean() == pytest.approx(log_loss(labels, scores))
    assert np.isnan(log_losses([0.5], [np.nan])).all()


def test_a_reliability_curve_by_hand():
    # Six known scores in three bins of two: (0.1, 0.2), (0.3, 0.4), (0.8, 0.9); the seventh is unknown.
    points = reliability_curve([0.9, 0.1, 0.2, 0.3, 0.4, 0.8, 0.5], [1, 0, 0, 0, 1, 1, np.nan], bins=3)
    assert [(p.n, p.n_positive) for p in points] == [(2, 0), (2, 1), (2, 2)]
    assert [p.mean_score for p in points] == pytest.approx([0.15, 0.35, 0.85])
    assert [p.observed for p in points] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 7), (7, 7), (50, 1000)])
def test_wilson_equals_scipy(k, n):
    ours, theirs = wilson(k, n), binomtest(k, n).proportion_ci(method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high))
