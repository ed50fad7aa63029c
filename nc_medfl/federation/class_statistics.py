"""The federation's class statistics: coverage and collapse, as rows of ``collapse.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nc_medfl.metrics.collapse import ClassStatistics, collapse_metrics

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class SiteStatistics:
    """Sums that one site sends (METHOD 6); no feature of a single patient is in them.

    Attributes:
        counts: positives and negatives of each class, ``[2, C]``; NaN where the site withholds them.
        feature_sums: sums of L2-normalised class features over the same, ``[2, C, D]``, or None; a row of NaN
            where the site withholds it.
    """

    counts: Floats
    feature_sums: Floats | None = None


def coverage_rows(parts: Sequence[SiteStatistics], findings: Sequence[str]) -> list[Row]:
    """How many sites have a positive of each finding, and how many positives there are in all."""
    if not parts:
        return []
    positives = np.stack([part.counts[0] for part in parts])
    withheld = np.isnan(positives).sum(axis=0)
    rows = []
    for index, finding in enumerate(findings):
        reason = f"{withheld[index]} sites withhold their count" if withheld[index] else ""
        rows.append(_row(finding, "n_sites", float((positives[:, index] > 0).sum()), reason))
        rows.append(_row(finding, "n_positive", float(np.nansum(positives[:, index])), reason))
    return rows


def collapse_rows(
    parts: Sequence[SiteStatistics], frame: Tensor | None, findings: Sequence[str], min_positives: int
) -> list[Row]:
    """NC1-NC3 over findings and NCpn for each, from the sums of all sites (METHOD 6).

    Args:
        parts: of the sites that answered.
        frame: the shared simplex ``[C, D]``; None for a method without one, which has no rows.
        findings: the vocabulary, in order.
        min_positives: findings with fewer positives over all sites are left out.
    """
    told = [(part.counts, part.feature_sums) for part in parts if part.feature_sums is not None]
    if frame is None or not told:
        return []
    # A count without its sum, or a sum without its count, tells nothing of a class.
    withheld = [np.isnan(count) | np.isnan(total).any(axis=-1) for count, total in told]
    counts = np.sum([np.where(gap, 0.0, count) for gap, (count, _) in zip(withheld, told, strict=True)], axis=0)
    sums = np.sum(
        [np.where(gap[..., None], 0.0, total) for gap, (_, total) in zip(withheld, told, strict=True)], axis=0
    )
    stats = ClassStatistics(torch.from_numpy(counts), torch.from_numpy(sums))
    result = collapse_metrics(stats, frame, min_positives=min_positives)
    few = f"fewer than 2 findings have {min_positives} positives"
    overall = ("nc1", "nc2_angle", "nc2_length", "nc3")
    rows = [_undefined_to_none("all", name, float(getattr(result, name)), few) for name in overall]
    for finding, value in zip(findings, result.ncpn.tolist(), strict=True):
        rows.append(_undefined_to_none(finding, "ncpn", float(value), "too few positives or negatives"))
    return rows


def _row(finding: str, metric: str, value: float | None, reason: str) -> Row:
    return {"finding": finding, "metric": metric, "value": value, "reason": reason}


def _undefined_to_none(finding: str, metric: str, value: float, reason: str) -> Row:
    return _row(finding, metric, value, "") if np.isfinite(value) else _row(finding, metric, None, reason)
