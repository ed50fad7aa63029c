"""``calibration.csv``: fitted on validation alone, measured before and after on test."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from nc_medfl.evaluation.calibrated import ERRORS, calibration_tables, fit_scaling
from nc_medfl.metrics.classification import measure, prepare_sample


def _site(seed, n=800, factor=3.0):
    """Scores that are three times too sure of themselves on the logit scale."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-0.7, 1.0, (n, 2))
    labels = (rng.random((n, 2)) < 1 / (1 + np.exp(-z))).astype(float)
    labels[rng.random((n, 2)) < 0.1] = np.nan
    return SimpleNamespace(scores=1 / (1 + np.exp(-factor * z)), labels=labels, patients=np.arange(n) // 2)


def _tables(validation, test, resamples=0):
    return calibration_tables(validation, test, ["A", "B"], run="r", model="m", resamples=resamples)


def _row(table, method, finding):
    found = table[(table["method"] == method) & (table["finding"] == finding)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize("method", ["none", "temperature", "platt"])
def test_errors_before_and_after_equal_scikit_learn_and_our_ece(method):
    validation, test = _site(0), _site(1)
    table, _ = _tables({"a": validation}, {"a": test})
    scores = fit_scaling(validation.scores, validation.labels, method).apply(test.scores)
    ece = measure(prepare_sample(scores, test.labels))["ece"][0]
    for c, finding in enumerate("AB"):
        known = ~np.isnan(test.labels[:, c])
        row = _row(table, method, finding)
        assert row["test_brier"] == pytest.approx(brier_score_loss(test.labels[known, c], scores[known, c]))
        assert row["test_log_loss"] == pytest.approx(log_loss(test.labels[known, c], scores[known, c]))
        assert row["test_ece"] == pytest.approx(ece[c])
    assert _row(table, method, "macro")["test_ece"] == pytest.approx(ece[-2])


def test_scaling_mends_scores_that_are_three_times_too_sure():
    table, _ = _tables({"a": _site(0)}, {"a": _site(1)})
    before, after = _row(table, "none", "macro"), _row(table, "temperature", "macro")
    assert after["temperature"] == pytest.approx(3.0, rel=0.15)
    for name in ERRORS:
        assert after[f"test_{name}"] < before[f"test_{name}"]
        assert _row(table, "platt", "macro")[f"test_{name}"] < before[f"test_{name}"]


def test_the_fit_does_not_look_at_test():
    one, _ = _tables({"a": _site(0)}, {"a": _site(1)})
    other, _ = _tables({"a": _site(0)}, {"a": _site(2, factor=0.2)})
    for name in ("temperature", "slope", "intercept"):
        np.testing.assert_array_equal(one[name].to_numpy(float), other[name].to_numpy(float))


def test_what_validation_cannot_fit_is_empty_with_its_reason_and_left_out_of_the_mean():
    validation = _site(0)
    validation.labels[:, 1] = 0.0
    table, points = _tables({"a": validation}, {"a": _site(1)}, resamples=20)
    row = _row(table, "platt", "B")
    assert row["reason"] == "no positive in validation"
    assert row[[f"test_{name}" for name in ERRORS]].isna().all()
    assert _row(table, "platt", "macro")["reason"] == "mean over 1 of 2 findings"
    assert points[(points["method"] == "platt") & (points["finding"] == "B")].empty


def test_a_site_without_validation_is_not_scaled_but_measured():
    table, _ = _tables({}, {"a": _site(1)})
    assert _row(table, "temperature", "A")["reason"] == "no annotated image in validation"
    assert np.isfinite(_row(table, "none", "A")["test_brier"])


def test_intervals_hold_what_is_a_mean_over_patients():
    table, _ = _tables({"a": _site(0)}, {"a": _site(1)}, resamples=300)
    for name in ("brier", "log_loss"):
        assert (table[f"test_{name}_low"] < table[f"test_{name}"]).all()
        assert (table[f"test_{name}_high"] > table[f"test_{name}"]).all()


def test_points_of_the_curve_hold_every_known_image_once():
    test = _site(1)
    _, points = _tables({"a": _site(0)}, {"a": test})
    before = points[(points["method"] == "none") & (points["finding"] == "A")]
    assert before["n"].sum() == (~np.isnan(test.labels[:, 0])).sum()
    assert before["n_positive"].sum() == (test.labels[:, 0] == 1).sum()
    assert before["mean_score"].is_monotonic_increasing


@pytest.mark.parametrize("rule", ["youden", "fixed"])
def test_a_finding_that_one_site_can_not_scale_says_so_at_that_site_and_pooled(rule):
    from nc_medfl.config import EvaluationSettings
    from nc_medfl.evaluation.decide import SiteScores
    from nc_medfl.evaluation.measured import About, measure_sites
    from nc_medfl.labels import Vocabulary

    lame = _site(2)
    lame.labels[:, 1] = 0.0
    sites = {"a": SiteScores(_site(0), _site(1)), "b": SiteScores(lame, _site(3))}
    chosen = EvaluationSettings(threshold=rule, calibrate="platt", resamples=0, groups=())
    found = measure_sites(sites, About("r", "m", Vocabulary("v", ("A", "B")), chosen))
    reasons = found.rows[found.rows["metric"] == "auc"].set_index(["site", "finding"])["reason"]
    assert reasons[("a", "B")] == ""
    assert reasons[("b", "B")] == "not calibrated: no positive in validation"
    assert reasons[("pooled", "B")] == "not calibrated at b: no positive in validation"
    cut = found.tables["thresholds.csv"]
    row = cut[(cut["site"] == "b") & (cut["finding"] == "B") & (cut["rule"] == "fixed") & (cut["scope"] == "site")]
    assert row["reason"].tolist() == ["not calibrated: no positive in validation"]
    assert row[["test_tp", "test_sensitivity"]].isna().all().all()
