"""Bootstrap intervals against a loop over scikit-learn, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from nc_medfl.metrics.bootstrap import bootstrap, patient_weights, percentile_intervals, resample
from nc_medfl.metrics.classification import METRICS, measure, prepare_sample


def _sample(seed: int, n_images: int, n_findings: int, shift: float = 1.0, prevalence: float = 0.3):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n_images, n_findings)) < prevalence).astype(float)
    scores = 1 / (1 + np.exp(-rng.normal(labels * shift, 1.0)))
    return scores, labels


def test_resamples_equal_a_loop_over_scikit_learn_with_repeated_images():
    scores, labels = _sample(0, 60, 3)
    scores = np.round(scores, 1)  # ties
    patients = np.repeat(np.arange(20), 3)
    draws = resample(prepare_sample(scores, labels), patients, resamples=25, seed=7)
    weights = np.concatenate(list(patient_weights(patients, 25, 7)), axis=1).astype(int)
    for b in range(25):
        rows = np.repeat(np.arange(60), weights[:, b])
        for c in range(3):
            assert draws["auc"][b, c] == pytest.approx(roc_auc_score(labels[rows, c], scores[rows, c]), abs=1e-9)
            expected = average_precision_score(labels[rows, c], scores[rows, c])
            assert draws["average_precision"][b, c] == pytest.approx(expected, abs=1e-9)
        assert draws["auc"][b, 3] == pytest.approx(draws["auc"][b, :3].mean())
        assert draws["auc"][b, 4] == pytest.approx(roc_auc_score(labels[rows].ravel(), scores[rows].ravel()), abs=1e-9)


def test_images_of_a_patient_are_drawn_together_and_as_many_patients_as_there_are():
    patients = np.array(["b", "a", "b", "c", "a", "b"])
    for weights in patient_weights(patients, 50, 1):
        assert (weights[0] == weights[2]).all()
        assert (weights[0] == weights[5]).all()
        assert (weights[1] == weights[4]).all()
        assert (weights[[0, 1, 3]].sum(axis=0) == 3).all()


def test_the_draws_don_t_depend_on_the_block():
    patients = np.arange(17)
    at_once = np.concatenate(list(patient_weights(patients, 40, 3, block=40)), axis=1)
    in_blocks = np.concatenate(list(patient_weights(patients, 40, 3, block=7)), axis=1)
    np.testing.assert_array_equal(at_once, in_blocks)


def test_same_seed_same_interval_other_seed_another():
    scores, labels = _sample(1, 80, 2)
    sample = prepare_sample(scores, labels, [0.5, 0.5])
    first, again, other = (bootstrap(sample, np.arange(80), resamples=100, seed=s)["auc"] for s in (4, 4, 5))
    np.testing.assert_array_equal(first.low, again.low)
    assert (first.low != other.low).any()


def test_every_metric_has_an_interval_in_order():
    scores, labels = _sample(2, 200, 3)
    intervals = bootstrap(prepare_sample(scores, labels, [0.5] * 3), np.arange(200), resamples=200, seed=0)
    assert set(intervals) == set(METRICS)
    for interval in intervals.values():
        assert (interval.low <= interval.high).all()
        assert interval.reasons == ("",) * 5


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    # Scores of positives are N(1, 1), of negatives N(0, 1): the AUC is Phi(1 / sqrt 2) = 0.76025.
    truth, repeats = 0.76025, 40
    inside = 0
    for seed in range(repeats):
        scores, labels = _sample(seed, 250, 10)
        interval = bootstrap(prepare_sample(scores, labels), np.arange(250), resamples=300, seed=seed)["auc"]
        inside += int(((interval.low[:10] <= truth) & (truth <= interval.high[:10])).sum())
    # 400 intervals: 95% give 380, standard deviation 4.4.
    assert 362 <= inside <= 394


def test_an_interval_over_patients_is_wider_than_over_images_when_images_repeat():
    scores, labels = _sample(3, 60, 1)
    scores, labels = np.repeat(scores, 5, axis=0), np.repeat(labels, 5, axis=0)
    sample = prepare_sample(scores, labels)
    clustered = bootstrap(sample, np.repeat(np.arange(60), 5), resamples=400, seed=0)["auc"]
    naive = bootstrap(sample, np.arange(300), resamples=400, seed=0)["auc"]
    assert clustered.high[0] - clustered.low[0] > 1.6 * (naive.high[0] - naive.low[0])


def test_too_few_positives_give_no_interval_and_say_why():
    labels = np.zeros((50, 2))
    labels[0, 0] = 1  # one patient: absent from 36% of the resamples
    labels[:20, 1] = 1
    scores = np.random.default_rng(0).random((50, 2))
    interval = bootstrap(prepare_sample(scores, labels), np.arange(50), resamples=200, seed=0)["auc"]
    assert np.isnan(interval.low[0])
    assert interval.reasons[0].startswith("no interval: defined in 6")
    assert np.isfinite(interval.low[1])


def test_one_patient_gives_no_interval():
    scores, labels = _sample(4, 10, 2)
    interval = bootstrap(prepare_sample(scores, labels), np.zeros(10), resamples=50)["auc"]
    assert np.isnan(interval.low).all()
    assert set(interval.reasons) == {"no interval: fewer than 2 patients"}


def test_no_resamples_no_intervals_and_no_complaint():
    scores, labels = _sample(4, 10, 2)
    interval = bootstrap(prepare_sample(scores, labels), np.arange(10), resamples=0)["brier"]
    assert np.isnan(interval.low).all()
    assert set(interval.reasons) == {""}


def test_percentiles_by_hand():
    # 0..100: the 2.5th and 97.5th percentiles are 2.5 and 97.5.
    interval = percentile_intervals(np.arange(101.0)[:, None])
    assert (interval.low[0], interval.high[0]) == pytest.approx((2.5, 97.5))


def test_patients_must_fit_the_images():
    scores, labels = _sample(4, 10, 2)
    with pytest.raises(ValueError, match="10 images"):
        resample(prepare_sample(scores, labels), np.arange(9), resamples=5)


def test_the_macro_is_over_the_same_findings_in_every_resample() -> None:
    # Findings 0 and 1: half positive, AUC near 0.5. Finding 2: one positive patient of 60, told perfectly (AUC 1), so
    # 1/e of the resamples lack it. Left out there, the macro would fall from about 0.67 to about 0.5.
    rng = np.random.default_rng(3)
    scores = rng.random((60, 3))
    labels = np.column_stack([np.arange(60) % 2, np.arange(60) // 30, np.arange(60) == 7]).astype(float)
    scores[7, 2] = 1.0
    sample = prepare_sample(scores, labels)
    value = measure(sample)["auc"][0]
    found = bootstrap(sample, np.arange(60), resamples=400)["auc"]
    common = resample(sample, np.arange(60), resamples=400)["auc"][:, :2]
    expected = np.quantile((common.sum(axis=1) + 1) / 3, [0.025, 0.975])  # finding 2 is 1 wherever it is defined
    np.testing.assert_allclose([found.low[3], found.high[3]], expected, atol=1e-6)
    assert found.low[3] < value[3] < found.high[3]
    assert found.reasons[3] == "interval holds 1 rare findings fixed"
    assert np.isnan(found.low[2])


def test_a_macro_of_findings_that_are_mostly_too_rare_has_no_interval() -> None:
    labels = (np.arange(40) == 3).astype(float)[:, None]
    found = bootstrap(prepare_sample(np.linspace(0, 1, 40)[:, None], labels), np.arange(40), resamples=200)["auc"]
    assert np.isnan(found.low[1])
    assert found.reasons[1] == "no interval: 1 of 1 findings are too rare"
