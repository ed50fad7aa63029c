"""Calibration: do scores mean what they say, and how a few numbers can mend it.

Both maps work on the logit z of a score. Temperature scaling (Guo et al., ICML 2017) takes ``sigmoid(z / T)`` with
one T; Platt scaling (Platt 1999) takes ``sigmoid(a z + b)``, with his smoothed targets, which keep a and b
finite where a finding is told without error. Both are fitted by Newton's method; the loss is convex.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nc_medfl.metrics.classification import (
    NO_ANNOTATED,
    NO_NEGATIVE,
    NO_POSITIVE,
    NOT_A_NUMBER,
    Floats,
    equal_mass_bins,
)

#: Scores are brought this far inside of (0, 1) before their logit or logarithm is taken.
EDGE = 1e-12
EQUAL_SCORES = "all validation scores are equal"
NO_ERROR = "validation is told without error, so no temperature fits best"
WRONG_WAY = "validation scores rank the wrong way round"
NOT_CONVERGED = "the fit did not converge"

_STEPS = 200
_SMALL = 1e-9
_RIDGE = 1e-12
_SETTLED = 1e-12
#: A slope beyond these is one that runs away.
_STEEPEST = 1e6


@dataclass(frozen=True)
class Scaling:
    """A map of scores: ``sigmoid(slope * logit(score) + intercept)``.

    Attributes:
        slope: more than 0, so that it never changes the order of scores; NaN where nothing could be fitted.
        intercept: 0 for a temperature.
        reason: why nothing could be fitted, else ``""``.
    """

    slope: float
    intercept: float
    reason: str = ""

    @property
    def temperature(self) -> float:
        """One over the slope."""
        return 1.0 / self.slope

    def apply(self, scores: npt.ArrayLike) -> Floats:
        """Scaled scores, of the same shape; NaN everywhere where nothing could be fitted."""
        return sigmoid(self.slope * logit(scores) + self.intercept)


def logit(scores: npt.ArrayLike) -> Floats:
    """``log(p / (1 - p))``, with scores of 0 and 1 brought inside by 1e-12."""
    inside = np.clip(np.asarray(scores, dtype=np.float64), EDGE, 1 - EDGE)
    result: Floats = np.log(inside) - np.log1p(-inside)
    return result


def sigmoid(logits: npt.ArrayLike) -> Floats:
    """``1 / (1 + exp(-z))``, without overflow."""
    z = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a NaN stays one
        result: Floats = np.exp(-np.logaddexp(0.0, -z))
    return result


def fit_temperature(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Scaling:
    """Fit one temperature by maximum likelihood.

    Args:
        scores: probabilities of validation pairs, of any shape.
        labels: 1, 0 or NaN (unknown, left out), of the same shape.

    Returns:
        The map, or why there is none: no label of a kind, equal scores, no error to learn from (the best
        temperature is 0), or scores that rank the wrong way round (no positive temperature is best).
    """
    z, y, reason = _known(scores, labels)
    if reason:
        return Scaling(np.nan, 0.0, reason)
    # The likelihood has a maximum unless no pair lies on the wrong side of logit 0.
    if not (np.where(y == 1, z, -z) < 0).any():
        return Scaling(np.nan, 0.0, NO_ERROR)
    scale = float(np.sqrt(np.mean(np.square(z))))
    found = _newton(z[:, None] / scale, y, np.zeros(1))
    return _checked(None if found is None else found / scale)


def fit_platt(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Scaling:
    """Fit slope and intercept with Platt's smoothed targets.

    Args:
        scores: probabilities of validation images for one finding, ``[N]``.
        labels: 1, 0 or NaN (unknown, left out), ``[N]``.

    Returns:
        The map, or why there is none: no label of a kind, equal scores, or scores that rank the wrong way round.
    """
    z, y, reason = _known(scores, labels)
    if reason:
        return Scaling(np.nan, np.nan, reason)
    n_positive = float(y.sum())
    n_negative = len(y) - n_positive
    targets = np.where(y == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    # Standardised logits make the two numbers comparable; they are turned back below.
    centre, spread = float(z.mean()), float(z.std())
    start = np.array([0.0, np.log((n_positive + 1) / (n_negative + 1))])
    found = _newton(np.stack([(z - centre) / spread, np.ones_like(z)], axis=1), targets, start)
    if found is None:
        return Scaling(np.nan, np.nan, NOT_CONVERGED)
    return _checked(np.array([found[0] / spread, found[1] - found[0] * centre / spread]))


def _known(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats, str]:
    given, kinds = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if given.shape != kinds.shape:
        raise ValueError(f"scores and labels must have one shape, not {given.shape} and {kinds.shape}")
    known = ~np.isnan(kinds)
    p, y = given[known], kinds[known]
    return logit(p), y, obstacle(p, y)


def obstacle(scores: Floats, labels: Floats) -> str:
    """Why nothing can be fitted on known pairs of validation; ``""`` if it can."""
    if not len(scores):
        return f"{NO_ANNOTATED} in validation"
    if not np.isfinite(scores).all():
        return f"{NOT_A_NUMBER} in validation"
    if not (labels == 1).any():
        return f"{NO_POSITIVE} in validation"
    if not (labels == 0).any():
        return f"{NO_NEGATIVE} in validation"
    return EQUAL_SCORES if np.ptp(logit(scores)) < _SMALL else ""


def _checked(found: Floats | None) -> Scaling:
    intercept = 0.0 if found is None or len(found) == 1 else float(found[1])
    if found is None:
        return Scaling(np.nan, intercept, NOT_CONVERGED)
    slope = float(found[0])
    if slope <= _SMALL:
        return Scaling(np.nan, np.nan if len(found) > 1 else 0.0, WRONG_WAY)
    if slope > _STEEPEST:
        return Scaling(np.nan, np.nan if len(found) > 1 else 0.0, NO_ERROR)
    return Scaling(slope, intercept)


def _newton(design: Floats, targets: Floats, start: Floats) -> Floats | None:
    """Minimise the mean cross entropy of ``sigmoid(design @ w)`` by Newton's method with step halving.

    Args:
        design: ``[N, K]``.
        targets: in [0, 1], ``[N]``.
        start: ``[K]``.

    Returns:
        ``w``, or None if it did not settle.
    """
    w = start.astype(np.float64)
    for _ in range(_STEPS):
        p = sigmoid(design @ w)
        gradient = design.T @ (p - targets) / len(targets)
        hessian = (design.T * (p * (1 - p))) @ design / len(targets)
        # A little ridge where scores are saturated and the curvature is all but gone.
        step = np.linalg.solve(hessian + _RIDGE * np.eye(len(w)), gradient)
        promised = float(gradient @ step)  # twice what the step would gain, were the loss a parabola
        if promised < _SETTLED:
            return w - step  # so near, a whole step squares the distance
        loss, size = _cross_entropy(design @ w, targets), 1.0
        while _cross_entropy(design @ (w - size * step), targets) > loss - 1e-4 * size * promised and size > _SMALL:
            size /= 2
        if size <= _SMALL:
            return w if promised < _SMALL else None  # rounding is all that is left, or something is wrong
        w = w - size * step
    return None


def _cross_entropy(z: Floats, targets: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, z) - targets * z))


def log_losses(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Minus the logarithm of what a score gave the true label, pair by pair, NaN where the label is unknown.

    Args:
        scores: probabilities, of any shape; 0 and 1 count as 1e-12 inside.
        labels: 1, 0 or NaN, of the same shape.
    """
    z, y = logit(scores), np.asarray(labels, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        result: Floats = np.logaddexp(0.0, z) - y * z
    return result


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of a reliability curve.

    Attributes:
        n: known pairs in it.
        n_positive: positives among them.
        lowest: smallest score in it.
        highest: largest.
        mean_score: mean of the scores.
        observed: share of positives.
        low: lower end of Wilson's 95% interval of that share.
        high: its upper end.
    """

    n: int
    n_positive: int
    lowest: float
    highest: float
    mean_score: float
    observed: float
    low: float
    high: float


def reliability_curve(scores: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Points of a reliability curve, in bins of about equal mass; equal scores share one.

    Args:
        scores: ``[N]``.
        labels: 1, 0 or NaN (left out), ``[N]``.
        bins: at most so many; empty ones are left out.
    """
    given, kinds = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(kinds) & np.isfinite(given)
    p, y = given[known], kinds[known]
    at = equal_mass_bins(p, bins)
    points = []
    for index in np.unique(at):
        s, n, k = p[at == index], int((at == index).sum()), int(y[at == index].sum())
        low, high = wilson(k, n)
        points.append(ReliabilityBin(n, k, float(s.min()), float(s.max()), float(s.mean()), k / n, low, high))
    return points


def wilson(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share (1927); it never leaves [0, 1].

    Args:
        successes: of the trials.
        trials: 1 or more, each independent of the others.
        z: normal quantile; the default makes it a 95% interval.
    """
    share = successes / trials
    below = 1 + z * z / trials
    middle = share + z * z / (2 * trials)
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return float(max(0.0, (middle - half) / below)), float(min(1.0, (middle + half) / below))
