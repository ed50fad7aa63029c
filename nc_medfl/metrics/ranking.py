"""AUC and average precision of many weightings at once, from one sort.

Pairs of an image and a finding are sorted by falling score and cut into steps, such that equal scores never
stand in two steps and every step that holds a positive holds one score only. The weights of positives and of
all pairs, summed a step, are all that both metrics need; a bootstrap resample is nothing but other weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

#: Sums of whole numbers are exact in float32 below this.
_EXACT = 2.0**24


@dataclass(frozen=True, eq=False)
class Ranking:
    """Known pairs by falling score, cut into steps.

    Attributes:
        images: the image of each pair, ``[M]``.
        starts: the first pair of each step, ``[S]``.
        positives: the image of each positive pair, in the same order, ``[P]``.
        positive_starts: the first positive of each step that has one, ``[T]``.
        positive_steps: the number of that step, ``[T]``.
    """

    images: Indices
    starts: Indices
    positives: Indices
    positive_starts: Indices
    positive_steps: Indices


def rank_pairs(scores: Floats, labels: Floats, images: Indices) -> Ranking:
    """Sort pairs once, for :func:`auc_and_average_precision`.

    Args:
        scores: ``[M]``, finite.
        labels: ``[M]``, 0 or 1.
        images: the image each pair belongs to, ``[M]``.
    """
    order = np.argsort(-scores, kind="stable")
    scores, positive, images = scores[order], labels[order] == 1, images[order]
    new_score = np.ones(len(scores), dtype=bool)
    new_score[1:] = scores[1:] != scores[:-1]
    group = np.cumsum(new_score) - 1
    with_positive = np.bincount(group, weights=positive, minlength=group[-1] + 1 if len(group) else 0) > 0
    # Neighbouring scores without a positive are one step: they only add negatives.
    new_step = with_positive.copy()
    new_step[1:] |= with_positive[:-1]
    new_step[:1] = True
    starts = np.flatnonzero(new_score)[new_step]
    step_of_positive = np.searchsorted(starts, np.flatnonzero(positive), side="right") - 1
    steps, positive_starts = np.unique(step_of_positive, return_index=True)
    return Ranking(images, starts, images[positive], positive_starts.astype(np.int64), steps)


def auc_and_average_precision(ranking: Ranking, weights: npt.NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Area under the ROC curve (ties count half) and step-wise average precision.

    Both are sums over positives, so past the running sum over all steps only the steps that hold one are looked at.

    Args:
        ranking: of the pairs.
        weights: how often each image counts, ``[N, B]``: a column a resample, whole numbers.

    Returns:
        Both ``[B]``. NaN where a weighting leaves no positive or, for the AUC, no negative.
    """
    n_resamples = weights.shape[1]
    undefined = np.full(n_resamples, np.nan)
    if not len(ranking.positives):
        return undefined, undefined.copy()
    if len(ranking.images) * float(weights.max(initial=0)) >= _EXACT:
        weights = weights.astype(np.float64)
    pairs = np.add.reduceat(weights[ranking.images], ranking.starts, axis=0)
    above = pairs.cumsum(axis=0)[ranking.positive_steps].astype(np.float64)
    positive = np.add.reduceat(weights[ranking.positives], ranking.positive_starts, axis=0).astype(np.float64)
    negative = pairs[ranking.positive_steps] - positive
    true_positives = positive.cumsum(axis=0)
    n_positive = true_positives[-1]
    n_negative = pairs.sum(axis=0, dtype=np.float64) - n_positive
    # A positive beats the negatives of later steps and half of those of its own.
    beaten = (positive * (n_negative - (above - true_positives) + negative / 2)).sum(axis=0)
    precision = np.divide(true_positives, above, out=np.zeros_like(above), where=above > 0)
    compared = n_positive * n_negative
    auc = np.divide(beaten, compared, out=undefined.copy(), where=compared > 0)
    average_precision = np.divide(
        (positive * precision).sum(axis=0), n_positive, out=undefined.copy(), where=n_positive > 0
    )
    return auc, average_precision
