"""Thresholds of each finding, chosen on validation scores and never on a test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nc_medfl.metrics.classification import NO_ANNOTATED, NO_NEGATIVE, NO_POSITIVE, NOT_A_NUMBER

Floats = npt.NDArray[np.float64]
Rule = Literal["youden", "f1", "half"]

NO_VALIDATION = "no validation rows to choose a threshold on"


@dataclass(frozen=True, eq=False)
class Thresholds:
    """A threshold for each finding; a score of this or more is a positive call.

    Attributes:
        values: ``[C]``, NaN where none could be chosen.
        reasons: why not, ``""`` where one could.
    """

    values: Floats
    reasons: tuple[str, ...]

    @classmethod
    def none(cls, n_findings: int, reason: str = NO_VALIDATION) -> Thresholds:
        """No threshold for any finding."""
        return cls(np.full(n_findings, np.nan), (reason,) * n_findings)


def choose_thresholds(scores: npt.ArrayLike, labels: npt.ArrayLike, *, rule: Rule = "youden") -> Thresholds:
    """Choose a threshold for each finding.

    Between two neighbouring scores every threshold does the same on these images; the one in the middle is
    taken. Of thresholds that are equally good, the highest is taken: fewer alarms.

    Args:
        scores: of validation images, ``[N, C]``.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.
        rule: ``youden`` for the largest sensitivity + specificity, ``f1`` for the largest F1, ``half`` for
            0.5 everywhere.

    Returns:
        Thresholds; without any validation row all of them lack. Under ``half`` none does.

    Raises:
        ValueError: if shapes differ or the rule is unknown.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"scores and labels must both be [N, C], not {scores.shape} and {labels.shape}")
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule '{rule}'; use one of {', '.join(get_args(Rule))}")
    if rule == "half":
        return Thresholds(np.full(scores.shape[1], 0.5), ("",) * scores.shape[1])
    if not len(scores):
        return Thresholds.none(scores.shape[1])
    chosen = [_choose(scores[:, c], labels[:, c], rule) for c in range(scores.shape[1])]
    return Thresholds(np.array([value for value, _ in chosen]), tuple(reason for _, reason in chosen))


def _choose(scores: Floats, labels: Floats, rule: Rule) -> tuple[float, str]:
    known = ~np.isnan(labels)
    scores, positive = scores[known], labels[known] == 1
    reason = _obstacle(scores, positive)
    if reason:
        return np.nan, f"{reason} in validation"
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    # Ends of runs of equal scores: calling positive down to there is what a threshold can do.
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    tp = np.cumsum(positive)[ends].astype(np.float64)
    fp = np.cumsum(~positive)[ends].astype(np.float64)
    n_positive, n_negative = tp[-1], fp[-1]
    gain = tp / n_positive - fp / n_negative if rule == "youden" else 2 * tp / (tp + fp + n_positive)
    # Rounded, so that equal gains reached by other sums are equal here too.
    best = int(np.argmax(np.round(gain, 12)))
    upper = scores[ends[best]]
    if best + 1 == len(ends):
        return float(upper), ""
    lower = scores[ends[best + 1]]
    middle = lower + (upper - lower) / 2
    return float(middle if middle > lower else upper), ""


def _obstacle(scores: Floats, positive: npt.NDArray[np.bool_]) -> str:
    if not len(scores):
        return NO_ANNOTATED
    if not np.isfinite(scores).all():
        return NOT_A_NUMBER
    if not positive.any():
        return NO_POSITIVE
    return NO_NEGATIVE if positive.all() else ""
