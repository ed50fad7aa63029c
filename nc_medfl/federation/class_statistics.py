"""The federation's class statistics: coverage and collapse, as rows of ``collapse.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nc_medfl.federation.exact import ExactSum
from nc_medfl.metrics.collapse import ClassStatistics, collapse_metrics

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]


#: A class mean whose cosine with its vertex is below this points more than 60 degrees away from it.
ALIGNED = 0.5
NOT_ALIGNED = f"does not align with its vertex (cosine below {ALIGNED})"


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


def site_collapse_rows(
    site: str, part: SiteStatistics, frame: Tensor | None, findings: Sequence[str], min_positives: int
) -> list[Row]:
    """One site's own NC1-NC3 and NCpn, as rows of ``rounds.csv``."""
    sums = StatisticsSums(len(findings))
    sums.add(part)
    rows = sums.collapse_rows(frame, findings, min_positives)
    return [{"site": site, "split": "train", **row} for row in rows]


class StatisticsSums:
    """The statistics of many sites, added up as they come; the sums do not depend on the order.

    Args:
        n_classes: C.
    """

    def __init__(self, n_classes: int) -> None:
        self._n_sites = np.zeros(n_classes, dtype=np.int64)
        self._n_withheld = np.zeros(n_classes, dtype=np.int64)
        self._positives = ExactSum((n_classes,))
        self._counts = ExactSum((2, n_classes))
        self._sums: ExactSum | None = None
        self.n_parts = 0

    def add(self, part: SiteStatistics) -> None:
        """Add one site's."""
        positives = part.counts[0]
        self._n_sites += positives > 0
        self._n_withheld += np.isnan(positives)
        self._positives.add(torch.from_numpy(np.nan_to_num(positives)))
        self.n_parts += 1
        if part.feature_sums is None:
            return
        if self._sums is None:
            self._sums = ExactSum(part.feature_sums.shape)
        # A count without its sum, or a sum without its count, tells nothing of a class.
        gap = np.isnan(part.counts) | np.isnan(part.feature_sums).any(axis=-1)
        self._counts.add(torch.from_numpy(np.where(gap, 0.0, part.counts)))
        self._sums.add(torch.from_numpy(np.where(gap[..., None], 0.0, part.feature_sums)))

    def coverage_rows(self, findings: Sequence[str]) -> list[Row]:
        """How many sites have a positive of each finding, and how many positives there are in all."""
        if not self.n_parts:
            return []
        positives = self._positives.value().tolist()
        rows = []
        for index, finding in enumerate(findings):
            withheld = int(self._n_withheld[index])
            reason = f"{withheld} sites withhold their count" if withheld else ""
            rows.append(_row(finding, "n_sites", float(self._n_sites[index]), reason))
            rows.append(_row(finding, "n_positive", float(positives[index]), reason))
        return rows

    def collapse_rows(self, frame: Tensor | None, findings: Sequence[str], min_positives: int) -> list[Row]:
        """NC1-NC3 over findings, and NC1, NC3 and NCpn for each, from the sums of all sites (METHOD 6).

        The NC3 of a finding is the cosine of its class mean and its vertex; the reason names one that is not aligned.

        Args:
            frame: the shared simplex ``[C, D]``; None for a method without one, which has no rows.
            findings: the vocabulary, in order.
            min_positives: findings with fewer positives over all sites are left out.
        """
        if frame is None or self._sums is None:
            return []
        stats = ClassStatistics(self._counts.value(), self._sums.value())
        result = collapse_metrics(stats, frame, min_positives=min_positives)
        few = f"fewer than 2 findings have {min_positives} positives"
        overall = ("nc1", "nc2_angle", "nc2_length", "nc3")
        rows = [_undefined_to_none("all", name, float(getattr(result, name)), few) for name in overall]
        for finding, value in zip(findings, result.ncpn.tolist(), strict=True):
            rows.append(_undefined_to_none(finding, "ncpn", float(value), "too few positives or negatives"))
        own = f"fewer than {min_positives} positives, or it is alone"
        for index, finding in enumerate(findings):
            rows.append(_undefined_to_none(finding, "nc1", float(result.nc1_by_class[index]), own))
            cosine = float(result.alignment[index])
            rows.append(_undefined_to_none(finding, "nc3", cosine, own))
            if cosine < ALIGNED:
                rows[-1]["reason"] = NOT_ALIGNED
        return rows


def _row(finding: str, metric: str, value: float | None, reason: str) -> Row:
    return {"finding": finding, "metric": metric, "value": value, "reason": reason}


def _undefined_to_none(finding: str, metric: str, value: float, reason: str) -> Row:
    return _row(finding, metric, value, "") if np.isfinite(value) else _row(finding, metric, None, reason)
