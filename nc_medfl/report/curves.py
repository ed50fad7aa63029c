"""What each threshold does, from histograms of counts: the numbers behind ROC, precision and recall, and the slider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
#: Thresholds, equal steps of the logit: rare findings have low scores.
THRESHOLDS: Floats = 1 / (1 + np.exp(-np.arange(-7, 7.01, 0.14)))
EVERYWHERE = ""


@dataclass(frozen=True, eq=False)
class Curve:
    """One finding somewhere.

    Attributes:
        positives: images with the finding.
        negatives: images without.
        sensitivity: at each threshold, ``[T]``.
        false_alarms: 1 - specificity at each threshold, ``[T]``.
    """

    positives: float
    negatives: float
    sensitivity: Floats
    false_alarms: Floats

    @property
    def ppv(self) -> Floats:
        """Share of alarms that are right, NaN where there are none."""
        right = self.sensitivity * self.positives
        alarms = right + self.false_alarms * self.negatives
        share: Floats = np.divide(right, alarms, out=np.full(len(right), np.nan), where=alarms > 0)
        return share


Curves = dict[tuple[str, str], Curve]


def curves_of(table: pd.DataFrame, sites: Sequence[str], *, together: bool) -> Curves:
    """Curves by site and finding; site ``""`` is all sites' patients together.

    Args:
        table: of ``score_histograms.csv``.
        sites: to show.
        together: whether to add all sites up.
    """
    out: Curves = {}
    for finding, part in table.groupby("finding", sort=False):
        for site, own in part[part["site"].isin(sites)].groupby("site", sort=False):
            _add(out, (str(site), str(finding)), own)
        if together:
            _add(out, (EVERYWHERE, str(finding)), part)
    return out


def _add(out: Curves, key: tuple[str, str], rows: pd.DataFrame) -> None:
    positive, negative = (rows[rows["label"] == name] for name in ("positive", "negative"))
    if len(positive) and len(negative):
        n_positive, n_negative = float(positive["count"].sum()), float(negative["count"].sum())
        out[key] = Curve(n_positive, n_negative, _above(positive) / n_positive, _above(negative) / n_negative)


def _above(rows: pd.DataFrame) -> Floats:
    """Counts at or above each threshold, with each bin's images spread evenly over it."""
    low, high = rows["low"].to_numpy(dtype=float)[:, None], rows["high"].to_numpy(dtype=float)[:, None]
    share = np.clip((high - THRESHOLDS) / np.maximum(high - low, 1e-12), 0, 1)
    counts: Floats = rows["count"].to_numpy(dtype=float) @ share
    return counts


def slider_data(
    curves: Curves, findings: Sequence[str], sites: Sequence[str], chosen: dict[tuple[str, str], float]
) -> dict[str, Any]:
    """What the page's slider reads: each number once, in thousandths.

    Args:
        curves: as :func:`curves_of` gives them.
        findings: of the vocabulary.
        sites: those shown, ``""`` for all.
        chosen: thresholds that the evaluation used, by site and finding.
    """
    told = [site for site in sites if any((site, finding) in curves for finding in findings)]
    return {
        "thresholds": [float(f"{value:.4g}") for value in THRESHOLDS],
        "findings": list(findings),
        "sites": [site or "All sites together" for site in told],
        "curves": [[_packed(curves.get((site, finding))) for finding in findings] for site in told],
        "chosen": [[chosen.get((site, finding)) for finding in findings] for site in told],
    }


def _packed(curve: Curve | None) -> list[Any] | None:
    if curve is None:
        return None
    prevalence = curve.positives / (curve.positives + curve.negatives)
    parts = [[round(1000 * float(v)) for v in values] for values in (curve.sensitivity, curve.false_alarms)]
    return [round(prevalence, 4), *parts]
