"""Metrics: how well findings are told, with what certainty, and how far class features have collapsed."""

from __future__ import annotations

from nc_medfl.metrics.bootstrap import Intervals, bootstrap, percentile_intervals, resample
from nc_medfl.metrics.classification import (
    METRICS,
    THRESHOLD_METRICS,
    Counts,
    Sample,
    auc,
    average_precision,
    confusion,
    measure,
    prepare_sample,
    reasons,
)

__all__ = [
    "METRICS",
    "THRESHOLD_METRICS",
    "Counts",
    "Intervals",
    "Sample",
    "auc",
    "average_precision",
    "bootstrap",
    "confusion",
    "measure",
    "percentile_intervals",
    "prepare_sample",
    "reasons",
    "resample",
]
