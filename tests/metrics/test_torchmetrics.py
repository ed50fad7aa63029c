"""Metrics against torchmetrics, which masks unknown labels itself, over thousands of columns with ties."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm

from nc_medfl.metrics.classification import (
    THRESHOLD_METRICS,
    auc,
    average_precision,
    confusion,
    measure,
    prepare_sample,
)

UNKNOWN = -1
AT_THRESHOLD = {
    "f1": tm.binary_f1_score,
    "sensitivity": tm.binary_recall,
    "specificity": tm.binary_specificity,
    "ppv": tm.binary_precision,
    "npv": tm.binary_negative_predictive_value,
    "mcc": tm.binary_matthews_corrcoef,
    "accuracy": tm.binary_accuracy,
}


def _case(seed: int, n_findings: int = 60):
    """Scores, labels (NaN unknown) and thresholds: coarse or fine scores, rare or common findings, some unread."""
    rng = np.random.default_rng([seed, 77])
    n_images = int(rng.integers(1, 50))
    steps = rng.choice([1, 2, 7, 100_000], size=n_findings)
    scores = rng.integers(0, steps + 1, size=(n_images, n_findings)) / steps
    labels = (rng.random(scores.shape) < rng.choice([0.05, 0.4, 0.95], n_findings)).astype(float)
    labels[rng.random(scores.shape) < rng.choice([0, 0.4, 0.9], n_findings)] = np.nan
    return scores, labels, rng.choice([0.0, 0.25, 0.5, 1.0], n_findings)


def _target(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.where(np.isnan(labels), UNKNOWN, labels)).long()


@pytest.mark.parametrize("seed", range(40))
def test_rank_metrics_equal_torchmetrics(seed):
    scores, labels, _ = _case(seed)
    area, precision = auc(scores, labels), average_precision(scores, labels)
    for c in range(scores.shape[1]):
        given = {"preds": torch.from_numpy(scores[:, c]), "target": _target(labels[:, c]), "ignore_index": UNKNOWN}
        if {0, 1} <= set(labels[:, c]):
            assert area[c] == pytest.approx(float(tm.binary_auroc(**given, validate_args=False)), abs=2e-6)
        if 1 in labels[:, c]:
            expected = tm.binary_average_precision(**given, validate_args=False)
            assert precision[c] == pytest.approx(float(expected), abs=2e-6)


@pytest.mark.parametrize("seed", range(20))
def test_threshold_metrics_equal_torchmetrics(seed):
    scores, labels, thresholds = _case(seed)
    table = confusion(scores, labels, thresholds)
    for name, metric in THRESHOLD_METRICS.items():
        values = metric(table)
        for c in np.flatnonzero(~np.isnan(values)):
            called = torch.from_numpy(scores[:, c] >= thresholds[c]).long()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = AT_THRESHOLD[name](called, _target(labels[:, c]), ignore_index=UNKNOWN, validate_args=False)
            assert values[c] == pytest.approx(float(expected), abs=2e-6), name


@pytest.mark.parametrize("seed", range(40))
def test_calibration_error_equals_torchmetrics_where_equal_mass_and_equal_width_give_the_same_bins(seed):
    # torchmetrics' bins are of equal width. With as many scores in each tenth of [0, 1] both rules make the same bins.
    rng = np.random.default_rng(seed)
    bins, each = 10, int(rng.integers(1, 30))
    scores = rng.permutation((np.repeat(np.arange(bins), each) + rng.uniform(0.01, 0.99, bins * each)) / bins)
    labels = (rng.random(len(scores)) < scores).astype(float)
    ours = measure(prepare_sample(scores[:, None], labels[:, None], bins=bins))["ece"][0, 0]
    theirs = tm.binary_calibration_error(torch.from_numpy(scores), torch.from_numpy(labels).long(), n_bins=bins)
    assert ours == pytest.approx(float(theirs), abs=2e-6)
