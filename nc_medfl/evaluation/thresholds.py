"""Thresholds of each finding, chosen on validation scores and never on a test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nc_medfl.metrics.classification import NO_ANNOTATED, NO_NEGATIVE, NO_POSITIVE, NOT_A_NUMBER

Floats = npt.NDArray[np.float64]
Rule = Literal["youden", "f1", "half", "sensitivity", "ppv", "fixed"]

#: Rules that aim at a number, and so need a target.
TARGETED = ("sensitivity", "ppv", "fixed")
#: Rules that look at no label, and so need no validation.
_BLIND = {"half", "fixed"}
_HALF = 0.5
#: Rounding error of a quotient of counts.
_ROUNDING = 1e-12

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


def choose_thresholds(
    scores: npt.ArrayLike, labels: npt.ArrayLike, *, rule: Rule = "youden", target: float | None = None
) -> Thresholds:
    """Choose a threshold for each finding.

    Between two neighbouring scores every threshold does the same on these images; the one in the middle is
    taken. Of thresholds that are equally good, the highest is taken: fewer alarms.

    Args:
        scores: of validation images, ``[N, C]``.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.
        rule: ``youden`` for the largest sensitivity + specificity, ``f1`` for the largest F1, ``sensitivity`` for the
            highest threshold that finds the target's share of positives or more, ``ppv`` for the one that finds
            most positives while the target's share of its alarms or more is right, ``fixed`` for the target
            itself, ``half`` for 0.5.
        target: of ``sensitivity``, ``ppv`` and ``fixed``, in [0, 1].

    Returns:
        Thresholds; without any validation row all of them lack. Under ``half`` and ``fixed`` none does.

    Raises:
        ValueError: if shapes differ, the rule is unknown, or its target is missing or out of range.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"scores and labels must both be [N, C], not {scores.shape} and {labels.shape}")
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule '{rule}'; use one of {', '.join(get_args(Rule))}")
    if rule in TARGETED and (target is None or not 0 <= target <= 1):
        raise ValueError(f"the rule '{rule}' needs a target between 0 and 1, not {target}")
    if rule in _BLIND:
        value = _HALF if rule == "half" or target is None else target
        return Thresholds(np.full(scores.shape[1], value), ("",) * scores.shape[1])
    if not len(scores):
        return Thresholds.none(scores.shape[1])
    chosen = [_choose(scores[:, c], labels[:, c], rule, target or 0.0) for c in range(scores.shape[1])]
    return Thresholds(np.array([value for value, _ in chosen]), tuple(reason for _, reason in chosen))


def _choose(scores: Floats, labels: Floats, rule: Rule, target: float) -> tuple[float, str]:
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
    best = best_step(tp, fp, rule, target)
    if best is None:
        return np.nan, f"no threshold reaches a PPV of {target:g} in validation (highest {(tp / (tp + fp)).max():.3g})"
    upper = scores[ends[best]]
    if best + 1 == len(ends):
        return float(upper), ""
    lower = scores[ends[best + 1]]
    middle = lower + (upper - lower) / 2
    return float(middle if middle > lower else upper), ""


def best_step(tp: Floats, fp: Floats, rule: Rule, target: float) -> int | None:
    """The step of a falling threshold that a rule takes.

    Args:
        tp: true positives at each step, ``[S]``; the last one holds all positives, one or more.
        fp: false positives at each step; the last one holds all negatives, one or more.
        rule: ``youden``, ``f1``, ``sensitivity`` or ``ppv``.
        target: of the last two.

    Returns:
        Its index; None where no step reaches a PPV.
    """
    if rule == "sensitivity":
        return int(np.argmax(tp / tp[-1] >= target - _ROUNDING))
    called = np.maximum(tp + fp, 1)
    # Rounded, so that equal gains reached by other sums are equal here too.
    if rule == "youden":
        gain = np.round(tp / tp[-1] - fp / fp[-1], 12)
    elif rule == "f1":
        gain = np.round(2 * tp / (tp + fp + tp[-1]), 12)
    else:
        gain = np.where((tp + fp > 0) & (tp / called >= target - _ROUNDING), tp, -1.0)
    best = int(np.argmax(gain))
    return best if gain[best] >= 0 or rule == "youden" else None


def _obstacle(scores: Floats, positive: npt.NDArray[np.bool_]) -> str:
    if not len(scores):
        return NO_ANNOTATED
    if not np.isfinite(scores).all():
        return NOT_A_NUMBER
    if not positive.any():
        return NO_POSITIVE
    return NO_NEGATIVE if positive.all() else ""
