"""Histograms of counts: their bounds hold for the scores themselves, which only the test pools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from nc_medfl.metrics.histograms import (
    EDGES,
    N_BINS,
    Runs,
    auc_bounds,
    bins_of,
    brier_bounds,
    count_runs,
    ece_bounds,
    exact_ece,
    join,
    mass_edges,
)

_ROUNDING = 1e-9


@st.composite
def _sites(draw):
    """Scores and labels of one to four sites: continuous, tied, saturated or all but equal."""
    sites = []
    for _ in range(draw(st.integers(1, 4))):
        rng = np.random.default_rng(draw(st.integers(0, 10**6)))
        n = draw(st.integers(1, 60))
        scores = {
            "normal": lambda rng=rng, n=n: 1 / (1 + np.exp(-rng.normal(-1, 2, n))),
            "tied": lambda rng=rng, n=n: rng.integers(0, 4, n) / 3,
            "edges": lambda rng=rng, n=n: rng.choice(EDGES, n),
            "near": lambda rng=rng, n=n: 0.5 + 1e-4 * rng.random(n),
        }[draw(st.sampled_from(["normal", "tied", "edges", "near"]))]()
        sites.append((scores, (rng.random(n) < draw(st.floats(0, 1))).astype(float)))
    return sites


def _runs(sites, minimum):
    return tuple(join([count_runs(s[y == kind], minimum) for s, y in sites]) for kind in (1, 0))


def _told(sites, minimum):
    """Scores and labels of which anything is told: a site with fewer of a kind than the minimum sends none."""
    kept = [(s[y == k], y[y == k]) for s, y in sites for k in (0, 1) if (y == k).sum() >= minimum]
    if not kept:
        return np.array([]), np.array([])
    return np.concatenate([s for s, _ in kept]), np.concatenate([y for _, y in kept])


@settings(max_examples=400, deadline=None)
@given(sites=_sites(), minimum=st.sampled_from([1, 2, 5, 10]))
def test_bounds_hold_for_the_pooled_scores(sites, minimum):
    positives, negatives = _runs(sites, minimum)
    scores, labels = _told(sites, minimum)
    if not len(scores):
        assert brier_bounds(positives, negatives).reason == "no annotated image"
        return
    brier = brier_bounds(positives, negatives)
    assert brier.low - _ROUNDING <= np.mean((scores - labels) ** 2) <= brier.high + _ROUNDING
    groups = mass_edges(positives, negatives)
    ece = ece_bounds(positives, negatives, groups)
    assert ece.low - _ROUNDING <= exact_ece(scores, labels, groups) <= ece.high + _ROUNDING
    auc = auc_bounds(positives, negatives)
    if len(np.unique(labels)) < 2:
        assert np.isnan(auc.value)
        assert auc.reason in ("no positive", "no negative")
    else:
        assert auc.low - _ROUNDING <= roc_auc_score(labels, scores) <= auc.high + _ROUNDING
        assert auc.low <= auc.value <= auc.high


@settings(max_examples=200, deadline=None)
@given(sites=_sites(), minimum=st.sampled_from([2, 5, 10]))
def test_bounds_hold_for_the_patients_held_back_too(sites, minimum):
    positives, negatives = _runs(sites, minimum)
    scores, labels = (np.concatenate([site[k] for site in sites]) for k in (0, 1))
    if not positives.total or not negatives.total:
        return
    held = [int((labels == k).sum()) - runs.total for k, runs in ((1, positives), (0, negatives))]
    found = auc_bounds(positives, negatives, hidden_positives=held[0], hidden_negatives=held[1])
    assert found.low - _ROUNDING <= roc_auc_score(labels, scores) <= found.high + _ROUNDING
    brier = brier_bounds(positives, negatives, hidden=sum(held))
    assert brier.low - _ROUNDING <= np.mean((scores - labels) ** 2) <= brier.high + _ROUNDING
    groups = mass_edges(positives, negatives)
    ece = ece_bounds(positives, negatives, groups, hidden=sum(held))
    assert ece.low - _ROUNDING <= exact_ece(scores, labels, groups) <= ece.high + _ROUNDING


@settings(max_examples=100, deadline=None)
@given(sites=_sites(), minimum=st.integers(1, 12))
def test_no_run_holds_fewer_than_the_minimum_and_none_is_lost(sites, minimum):
    for scores, _ in sites:
        runs = count_runs(scores, minimum)
        assert (runs.count >= minimum).all()
        assert runs.total == (len(scores) if len(scores) >= minimum else 0)
        assert (runs.first <= runs.last).all()
        assert (runs.first[1:] > runs.last[:-1]).all()
        for first, last, count in zip(runs.first, runs.last, runs.count, strict=True):
            at = bins_of(scores)
            assert ((at >= first) & (at <= last)).sum() == count


def test_fine_bins_leave_the_auc_of_many_patients_known_to_a_hundredth():
    rng = np.random.default_rng(0)
    labels = (rng.random(20_000) < 0.1).astype(float)
    scores = 1 / (1 + np.exp(-(rng.normal(size=20_000) + 1.5 * labels - 2)))
    found = auc_bounds(count_runs(scores[labels == 1], 5), count_runs(scores[labels == 0], 5))
    assert found.high - found.low < 0.02
    assert found.value == pytest.approx(roc_auc_score(labels, scores), abs=0.001)
    assert brier_bounds(count_runs(scores[labels == 1], 5), count_runs(scores[labels == 0], 5)).value == pytest.approx(
        brier_score_loss(labels, scores), abs=0.001
    )


def test_bounds_by_hand():
    # Bins a < b < c. Positives: 2 somewhere in b..c. Negatives: 3 in a, 1 in b. Sure: 2 x 3 of 8 pairs; the pairs
    # with the one in b may go either way. So 6/8 to 8/8.
    a, b, c = 100, 200, 300
    positives = Runs(np.array([b]), np.array([c]), np.array([2]))
    negatives = Runs(np.array([a, b]), np.array([a, b]), np.array([3, 1]))
    found = auc_bounds(positives, negatives)
    assert (found.low, found.high) == (6 / 8, 1.0)


def test_runs_by_hand():
    # Bins hold 1, 1, 3, 1: with a minimum of 2 the first two join, the third stands alone, the last joins it.
    scores = np.concatenate(
        [np.full(n, (EDGES[k] + EDGES[k + 1]) / 2) for k, n in ((10, 1), (20, 1), (30, 3), (40, 1))]
    )
    runs = count_runs(scores, 2)
    assert list(zip(runs.first.tolist(), runs.last.tolist(), runs.count.tolist(), strict=True)) == [
        (10, 20, 2),
        (30, 40, 4),
    ]


def test_many_images_of_one_patient_are_one_patient():
    scores, patients = [0.1, 0.1, 0.1, 0.2, 0.3, 0.9], [1, 1, 1, 2, 3, 4]
    assert count_runs(scores, 2, patients).count.tolist() == [4, 2]
    assert count_runs(scores, 5, patients).total == 0


def test_bins_cover_all_scores_in_equal_steps_of_the_logit():
    assert bins_of([0.0, 1.0, 0.5]).tolist() == [0, N_BINS - 1, N_BINS // 2]
    assert len(EDGES) == N_BINS + 1
    assert (np.diff(EDGES) > 0).all()
    steps = np.diff(np.log(EDGES[1:-1] / (1 - EDGES[1:-1])))
    np.testing.assert_allclose(steps, 0.02, rtol=1e-6)
