"""Evaluation: scores of a model at a site, thresholds chosen on validation, and the long table of results."""

from __future__ import annotations

from nc_medfl.evaluation.files import read_metrics, write_metrics
from nc_medfl.evaluation.tables import as_table, evaluate_site, mean_over_sites
from nc_medfl.evaluation.thresholds import Thresholds, choose_thresholds

__all__ = [
    "Thresholds",
    "as_table",
    "choose_thresholds",
    "evaluate_site",
    "mean_over_sites",
    "read_metrics",
    "write_metrics",
]
