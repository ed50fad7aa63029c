"""Gaps between groups: by hand, and how often their intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nc_medfl.metrics.fairness import (
    NO_INTERVAL,
    TOO_FEW_GROUPS,
    Estimate,
    age_bands,
    compare,
    difference_interval,
    mean_interval,
)


def test_worst_best_and_gap_by_hand():
    # Best 0.9 (0.8, 0.94), worst 0.6 (0.5, 0.72). Gap 0.3; low 0.3 - sqrt(0.1^2 + 0.12^2) = 0.143795,
    # high 0.3 + sqrt(0.04^2 + 0.1^2) = 0.407703. Spread of 0.9, 0.7, 0.6: variance (0.0278 + 0.0011 + 0.0178) / 2.
    groups = [Estimate("a", 0.7, 0.6, 0.8), Estimate("b", 0.9, 0.8, 0.94), Estimate("c", 0.6, 0.5, 0.72)]
    found = compare(groups)
    assert (found.worst.name, found.best.name) == ("c", "b")
    assert (found.gap, found.low, found.high) == pytest.approx((0.3, 0.143795, 0.407703), abs=1e-6)
    assert found.spread == pytest.approx(0.152753, abs=1e-6)
    turned = compare(groups, less_is_better=True)
    assert (turned.worst.name, turned.best.name, turned.gap) == ("b", "c", found.gap)


def test_a_gap_needs_two_groups_with_a_value():
    found = compare([Estimate("a", 0.7), Estimate("b", math.nan)])
    assert (found.reason, found.n_groups, found.worst) == (TOO_FEW_GROUPS, 1, None)
    assert math.isnan(found.gap)


def test_a_gap_between_groups_without_intervals_has_none_and_says_so():
    found = compare([Estimate("a", 0.7), Estimate("b", 0.5, 0.4, 0.6)])
    assert found.gap == pytest.approx(0.2)
    assert found.reason == NO_INTERVAL


def test_groups_that_are_equal_have_a_gap_of_nothing():
    found = compare([Estimate("b", 0.7, 0.6, 0.8), Estimate("a", 0.7, 0.6, 0.8)])
    assert (found.best.name, found.worst.name, found.gap) == ("a", "b", 0.0)


def test_the_interval_of_a_difference_holds_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(4000):
        ends = []
        for mean, n in ((0.3, 40), (0.1, 90)):
            drawn = rng.normal(mean, 1, n)
            half = 1.96 * drawn.std(ddof=1) / math.sqrt(n)
            ends.append(Estimate("x", drawn.mean(), drawn.mean() - half, drawn.mean() + half))
        low, high = difference_interval(*ends)
        held += low <= 0.2 <= high
    assert 0.935 <= held / 4000 <= 0.965


def test_ages_fall_into_decades():
    given = [0, 9.9, 10, 69.5, 89, 90, math.nan, -1]
    assert age_bands(given).tolist() == ["0-9", "0-9", "10-19", "60-69", "80-89", "90+", "", ""]


def test_the_interval_of_a_mean_by_hand():
    # 0.9 (0.8, 0.94) and 0.6 (0.5, 0.72): 0.75 - sqrt(0.1^2 + 0.1^2) / 2 and 0.75 + sqrt(0.04^2 + 0.12^2) / 2.
    found = mean_interval([Estimate("a", 0.9, 0.8, 0.94), Estimate("b", 0.6, 0.5, 0.72)])
    assert found == pytest.approx((0.679289, 0.813246), abs=1e-6)
    alone = mean_interval([Estimate("a", 0.9, 0.8, 0.94)])
    assert alone == pytest.approx((0.8, 0.94))
    assert all(math.isnan(end) for end in mean_interval([Estimate("a", 0.9, 0.8, 0.94), Estimate("b", 0.6)]))
    assert all(math.isnan(end) for end in mean_interval([]))


def test_an_end_on_the_wrong_side_of_its_value_narrows_nothing_and_widens_nothing():
    # An error of 0.10 whose resamples lie at 0.11 to 0.20, and one of 0.3 with 0.2 to 0.4: 0.2 - 0.1 / 2 below.
    low, high = mean_interval([Estimate("a", 0.1, 0.11, 0.2), Estimate("b", 0.3, 0.2, 0.4)])
    assert (low, high) == pytest.approx((0.15, 0.2 + math.hypot(0.1, 0.1) / 2))


def test_the_interval_of_a_mean_over_sites_holds_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(4000):
        sites = []
        for truth, n in ((0.8, 60), (0.6, 200), (0.7, 120)):
            drawn = rng.normal(truth, 0.5, n)
            half = 1.96 * drawn.std(ddof=1) / math.sqrt(n)
            sites.append(Estimate("x", drawn.mean(), drawn.mean() - half, drawn.mean() + half))
        low, high = mean_interval(sites)
        held += low <= 0.7 <= high
    assert 0.935 <= held / 4000 <= 0.965
