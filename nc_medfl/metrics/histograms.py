"""Score histograms of counts, and what they tell of many sites' patients together without a single score.

A site counts its positives and its negatives in bins that are fixed beforehand: equal steps of the logit. A bin with
few patients would tell of them, so the site joins neighbouring bins into a run until each run holds enough, and sends
the run's ends and its count. Sums over runs of several sites then bound what the scores themselves would give: every
pair whose order the runs decide is counted, every other one is counted as wrong for the lower bound and as right
for the upper. The bounds hold for certain; they are no confidence interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nc_medfl.metrics.calibration import sigmoid

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

#: Logits beyond these fall into the two outermost bins.
FURTHEST = 10.0
STEPS_A_LOGIT = 50
N_BINS = int(2 * FURTHEST * STEPS_A_LOGIT) + 2

#: Scores at the ends of the bins, ``[N_BINS + 1]``: 0, then equal steps of the logit, then 1.
EDGES: Floats = np.concatenate(
    [[0.0], sigmoid(np.arange(-FURTHEST * STEPS_A_LOGIT, FURTHEST * STEPS_A_LOGIT + 1) / STEPS_A_LOGIT), [1.0]]
)


@dataclass(frozen=True, eq=False)
class Runs:
    """Counts in runs of bins.

    Attributes:
        first: first bin of each run, ``[R]``.
        last: its last bin, ``[R]``, no less than the first.
        count: scores in it, ``[R]``.
    """

    first: Indices
    last: Indices
    count: Indices

    @classmethod
    def none(cls) -> Runs:
        """No score at all."""
        empty = np.zeros(0, dtype=np.int64)
        return cls(empty, empty, empty)

    @property
    def total(self) -> int:
        """Scores in all runs."""
        return int(self.count.sum())

    def at_bins(self, ends: Indices) -> Floats:
        """Counts by bin, with each run put into one of its own bins, ``[N_BINS]``."""
        return np.bincount(ends, weights=self.count, minlength=N_BINS).astype(np.float64)

    def spread(self) -> Floats:
        """Counts by bin, with each run spread evenly over its bins, ``[N_BINS]``."""
        share = self.count / (self.last - self.first + 1)
        steps = np.zeros(N_BINS + 1)
        np.add.at(steps, self.first, share)
        np.add.at(steps, self.last + 1, -share)
        return np.maximum(np.cumsum(steps)[:-1], 0.0)


def join(parts: Sequence[Runs]) -> Runs:
    """The runs of several sites beside each other."""
    if not parts:
        return Runs.none()
    return Runs(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("first", "last", "count")))


def bins_of(scores: npt.ArrayLike) -> Indices:
    """The bin of each score: the one whose lower end it reaches."""
    given = np.asarray(scores, dtype=np.float64)
    return np.clip(np.searchsorted(EDGES, given, side="right") - 1, 0, N_BINS - 1)


def count_runs(scores: npt.ArrayLike, minimum: int = 1, patients: npt.ArrayLike | None = None) -> Runs:
    """Count scores in runs of bins that each hold as many patients as it takes.

    Args:
        scores: probabilities, ``[N]``, all finite.
        minimum: fewest patients in a run; 1 makes each bin that holds any a run of its own.
        patients: whose score each is, ``[N]``; None takes each for a patient of its own.

    Returns:
        The runs, by rising score; none where there are fewer patients than the minimum in all.
    """
    at = bins_of(scores)
    order = np.argsort(at, kind="stable")
    keys = np.arange(len(at)) if patients is None else np.asarray(patients)
    filled, starts = np.unique(at[order], return_index=True)
    runs: list[tuple[int, int, int]] = []
    first, count, seen = -1, 0, set[object]()
    for index, members in zip(filled.tolist(), np.split(keys[order], starts[1:]), strict=False):
        first = first if count else index
        count += len(members)
        seen.update(members.tolist())
        if len(seen) >= minimum:
            runs.append((first, index, count))
            count, seen = 0, set()
    if count and runs:  # what is left over at the top joins the run below it
        before = runs.pop()
        runs.append((before[0], int(filled[-1]), before[2] + count))
    table = np.array(runs, dtype=np.int64).reshape(-1, 3)
    return Runs(table[:, 0], table[:, 1], table[:, 2])


@dataclass(frozen=True)
class Bounded:
    """A number that histograms leave uncertain.

    Attributes:
        value: the best guess, with each run spread evenly over its bins; NaN where undefined.
        low: it is no less than this, whatever the scores in the bins are.
        high: it is no more.
        reason: why it is undefined, else ``""``.
    """

    value: float
    low: float
    high: float
    reason: str = ""


def _undefined(positives: Runs, negatives: Runs, *, both: bool) -> str:
    if not (positives.total + negatives.total):
        return "no annotated image"
    if both and not positives.total:
        return "no positive"
    return "no negative" if both and not negatives.total else ""


def auc_bounds(positives: Runs, negatives: Runs, *, hidden_positives: int = 0, hidden_negatives: int = 0) -> Bounded:
    """Area under the ROC curve of all sites' patients together, with the error that bins and runs bring.

    A pair whose runs don't touch is decided. For the lower bound every other pair counts 0: positives stand at
    the bottom of their runs, negatives at the top of theirs. For the upper bound it counts 1.

    Args:
        positives: of all sites.
        negatives: of all sites.
        hidden_positives: most positives that sites hold back, of any score; their pairs widen the bounds.
        hidden_negatives: most negatives that they hold back.
    """
    reason = _undefined(positives, negatives, both=True)
    if reason:
        return Bounded(np.nan, np.nan, np.nan, reason)
    pairs = float(positives.total) * negatives.total
    low = _won(positives.at_bins(positives.first), negatives.at_bins(negatives.last), 0.0) / pairs
    high = _won(positives.at_bins(positives.last), negatives.at_bins(negatives.first), 1.0) / pairs
    value = _won(positives.spread(), negatives.spread(), 0.5) / pairs
    # Of all pairs there may be, those of the told ones are this share; the others may all be lost, or all won.
    share = pairs / (float(positives.total + hidden_positives) * (negatives.total + hidden_negatives))
    return Bounded(float(np.clip(value, low, high)), low * share, high * share + (1 - share))


def _won(positives: Floats, negatives: Floats, ties: float) -> float:
    """Pairs in which the positive stands in a higher bin, and a share of those in the same bin."""
    below = np.cumsum(negatives) - negatives
    return float(positives @ (below + ties * negatives))


def brier_bounds(positives: Runs, negatives: Runs, *, hidden: int = 0) -> Bounded:
    """Mean squared error of all sites' patients together, with the error that bins and runs bring.

    Args:
        positives: of all sites.
        negatives: of all sites.
        hidden: scores that sites hold back, of either label; each is off by anything from 0 to 1.
    """
    reason = _undefined(positives, negatives, both=False)
    if reason:
        return Bounded(np.nan, np.nan, np.nan, reason)
    n = positives.total + negatives.total
    low = positives.count @ np.square(1 - EDGES[positives.last + 1]) + negatives.count @ np.square(
        EDGES[negatives.first]
    )
    high = positives.count @ np.square(1 - EDGES[positives.first]) + negatives.count @ np.square(
        EDGES[negatives.last + 1]
    )
    middle = (EDGES[:-1] + EDGES[1:]) / 2
    value = positives.spread() @ np.square(1 - middle) + negatives.spread() @ np.square(middle)
    guess = float(np.clip(value / n, low / n, high / n))
    return Bounded(guess, float(low / (n + hidden)), float((high + hidden) / (n + hidden)))


def mass_edges(positives: Runs, negatives: Runs, bins: int = 10) -> Indices:
    """Bins at which about equal shares of the patients begin, by the best guess, for :func:`ece_bounds`.

    Returns:
        First bins of each group and, last, ``N_BINS``; fewer groups than asked for where bins are full.
    """
    mass = np.cumsum(positives.spread() + negatives.spread())
    wanted = mass[-1] * np.arange(1, bins) / bins
    inner = np.searchsorted(mass, wanted - 1e-9, side="left") + 1
    return np.unique(np.concatenate([[0], inner, [N_BINS]])).astype(np.int64)


def ece_bounds(positives: Runs, negatives: Runs, groups: Indices, *, hidden: int = 0) -> Bounded:
    """Expected calibration error over given groups of bins, with the error that bins and runs bring.

    Args:
        positives: of all sites.
        negatives: of all sites.
        groups: first bins of the groups, and ``N_BINS`` last, as :func:`mass_edges` gives them.
        hidden: scores that sites hold back, of either label; each can move the sum by 1 either way.
    """
    reason = _undefined(positives, negatives, both=False)
    if reason:
        return Bounded(np.nan, np.nan, np.nan, reason)
    n = positives.total + negatives.total
    low = high = value = 0.0
    middle = (EDGES[:-1] + EDGES[1:]) / 2
    gaps = positives.spread() * (middle - 1) + negatives.spread() * middle
    for start, end in pairwise(groups.tolist()):
        # Score minus label, summed over the group: a positive takes from it, a negative adds to it.
        taken = _sum_bounds(positives, start, end, shift=1.0)
        added = _sum_bounds(negatives, start, end, shift=0.0)
        lowest, highest = added[0] - taken[1], added[1] - taken[0]
        low += max(0.0, lowest, -highest)
        high += max(abs(lowest), abs(highest))
        value += abs(float(gaps[start:end].sum()))
    value = float(np.clip(value, low, high) / n)
    low, high = max(0.0, low - hidden) / (n + hidden), min((high + hidden) / (n + hidden), 1.0)
    return Bounded(value, low, high)


def _sum_bounds(runs: Runs, start: int, end: int, *, shift: float) -> tuple[float, float]:
    """Least and most of the sum of ``|shift - score|`` over the scores in bins ``start`` to ``end - 1``."""
    first, last = np.maximum(runs.first, start), np.minimum(runs.last, end - 1)
    inside = (runs.first >= start) & (runs.last < end)
    touching = first <= last
    bottom, top = EDGES[np.minimum(first, N_BINS)], EDGES[np.minimum(last, N_BINS - 1) + 1]
    near, far = (1 - top, 1 - bottom) if shift else (bottom, top)
    return float(runs.count[inside] @ near[inside]), float(runs.count[touching] @ far[touching])


def exact_ece(scores: npt.ArrayLike, labels: npt.ArrayLike, groups: Indices) -> float:
    """The calibration error that :func:`ece_bounds` bounds, from the scores themselves.

    Args:
        scores: probabilities with known labels, ``[N]``.
        labels: 1 or 0, ``[N]``.
        groups: as there.
    """
    p, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    at = np.searchsorted(groups, bins_of(p), side="right") - 1
    gaps = np.bincount(at, weights=p - y, minlength=len(groups) - 1)
    return float(np.abs(gaps).sum() / len(p))


__all__ = [
    "EDGES",
    "N_BINS",
    "Bounded",
    "Runs",
    "auc_bounds",
    "bins_of",
    "brier_bounds",
    "count_runs",
    "ece_bounds",
    "exact_ece",
    "join",
    "mass_edges",
]
