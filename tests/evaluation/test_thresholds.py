"""Thresholds, against a search over all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

from nc_medfl.evaluation.thresholds import NO_VALIDATION, choose_thresholds


def _gain(rule, y, called):
    if rule == "f1":
        return f1_score(y, called)
    return recall_score(y, called) + recall_score(y, called, pos_label=0) - 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 100_000), st.sampled_from(["youden", "f1"]))
def test_no_threshold_beats_the_chosen_one(seed, rule):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    scores, y = rng.integers(0, rng.choice([3, 8, 10**6]), n) / 10**6, np.append([0, 1], rng.integers(0, 2, n - 2))
    chosen = choose_thresholds(scores[:, None], y[:, None], rule=rule).values[0]
    best = max(_gain(rule, y, scores >= t) for t in np.unique(scores))
    assert _gain(rule, y, scores >= chosen) == pytest.approx(best, abs=1e-9)


def test_youden_by_hand():
    # Falling: 0.9 (1), 0.7 (0), 0.6 (1), 0.2 (0). Positive down to 0.9: 1/2 - 0 = 0.5; to 0.7: 0; to 0.6:
    # 1 - 1/2 = 0.5; to 0.2: 0. The highest of the best lies between 0.9 and 0.7.
    chosen = choose_thresholds([[0.9], [0.7], [0.6], [0.2]], [[1], [0], [1], [0]])
    assert chosen.values[0] == pytest.approx(0.8)
    assert chosen.reasons == ("",)


def test_f1_by_hand():
    # As above: F1 is 2/3, 1/2, 4/5, 2/3; the best lies between 0.6 and 0.2.
    chosen = choose_thresholds([[0.9], [0.7], [0.6], [0.2]], [[1], [0], [1], [0]], rule="f1")
    assert chosen.values[0] == pytest.approx(0.4)


def test_unknown_labels_take_no_part():
    chosen = choose_thresholds([[0.9], [0.85], [0.1]], [[1], [np.nan], [0]])
    assert chosen.values[0] == pytest.approx(0.5)


def test_scores_next_to_each_other_are_kept_apart():
    upper = np.nextafter(0.5, 1)
    chosen = choose_thresholds([[upper], [0.5]], [[1], [0]]).values[0]
    assert 0.5 < chosen <= upper


def test_a_finding_without_positive_or_negative_has_no_threshold_and_says_why():
    labels = np.array([[0, 1, np.nan, 1], [0, 1, np.nan, 0]])
    chosen = choose_thresholds(np.array([[0.1, 0.2, 0.3, np.nan], [0.5, 0.6, 0.7, 0.4]]), labels)
    assert np.isnan(chosen.values).all()
    assert chosen.reasons == (
        "no positive in validation",
        "no negative in validation",
        "no annotated image in validation",
        "a score is not a number in validation",
    )


def test_half_needs_no_validation():
    chosen = choose_thresholds(np.empty((0, 3)), np.empty((0, 3)), rule="half")
    assert chosen.values.tolist() == [0.5, 0.5, 0.5]


def test_no_validation_row_is_said():
    chosen = choose_thresholds(np.empty((0, 2)), np.empty((0, 2)))
    assert chosen.reasons == (NO_VALIDATION, NO_VALIDATION)


def test_an_unknown_rule_and_odd_shapes_are_refused():
    with pytest.raises(ValueError, match="youden, f1, half"):
        choose_thresholds([[0.5]], [[1]], rule="best")
    with pytest.raises(ValueError, match=r"\[N, C\]"):
        choose_thresholds([0.5], [1])
