"""Groups of patients beside each other: who is served worst, and by how much.

A gap is the difference between the best and the worst group. Its interval is put together from the two groups' own
(Zou and Donner, Statistics in Medicine 2008: square and add the distances to the ends), so that it can be worked out
where nothing but numbers has arrived. It takes the two groups as independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Metrics of which less is better.
LESS_IS_BETTER = frozenset({"brier", "ece"})

TOO_FEW_GROUPS = "fewer than 2 groups to compare"
NO_INTERVAL = "no interval: a group has none"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        name: of the group.
        value: NaN where undefined.
        low: lower end, NaN where there is none.
        high: upper end.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Gap:
    """The best group and the worst.

    Attributes:
        worst: None where there are fewer than two groups with a value.
        best: the same.
        gap: how much better the best is, 0 or more.
        low: lower end of the gap's interval; it may be below 0, since the groups were picked after looking.
        high: upper end.
        spread: standard deviation over the groups (divided by n - 1).
        n_groups: with a value.
        reason: why there is no gap or no interval, else ``""``.
    """

    worst: Estimate | None
    best: Estimate | None
    gap: float
    low: float
    high: float
    spread: float
    n_groups: int
    reason: str


def compare(groups: Sequence[Estimate], *, less_is_better: bool = False) -> Gap:
    """Find the best and the worst group; of equal ones the first by name.

    Args:
        groups: to compare; those without a value are left out.
        less_is_better: as of a calibration error.
    """
    told = sorted((group for group in groups if not math.isnan(group.value)), key=lambda group: group.name)
    if len(told) < 2:
        return Gap(None, None, math.nan, math.nan, math.nan, math.nan, len(told), TOO_FEW_GROUPS)
    largest = max(told, key=lambda group: group.value)
    smallest = min((group for group in told if group is not largest), key=lambda group: group.value)
    low, high = difference_interval(largest, smallest)
    best, worst = (smallest, largest) if less_is_better else (largest, smallest)
    spread = float(np.std([group.value for group in told], ddof=1))
    reason = NO_INTERVAL if math.isnan(low) else ""
    return Gap(worst, best, largest.value - smallest.value, low, high, spread, len(told), reason)


def difference_interval(a: Estimate, b: Estimate) -> tuple[float, float]:
    """Interval of ``a - b`` from their own; NaN where one has none."""
    difference = a.value - b.value
    low = difference - math.hypot(a.value - a.low, b.high - b.value)
    return low, difference + math.hypot(a.high - a.value, b.value - b.low)


def mean_interval(parts: Sequence[Estimate]) -> tuple[float, float]:
    """Interval of the mean of independent numbers from their own, in the same way; NaN where one has none.

    An end on the wrong side of its own value (a biased interval) counts as lying on the value.
    """
    n = len(parts)
    if not n:
        return math.nan, math.nan
    mean = sum(part.value for part in parts) / n
    below = math.hypot(*(_not_below_0(part.value - part.low) for part in parts)) / n
    return mean - below, mean + math.hypot(*(_not_below_0(part.high - part.value) for part in parts)) / n


def _not_below_0(value: float) -> float:
    return value if math.isnan(value) else max(value, 0.0)


def age_bands(ages: npt.ArrayLike) -> npt.NDArray[np.str_]:
    """Ages by decade: ``60-69``, ``90+`` from 90 on, empty where unknown.

    Args:
        ages: in years, ``[N]``, NaN where unknown.
    """
    years = np.asarray(ages, dtype=np.float64)
    return np.array([_band(age) for age in years.tolist()], dtype=str)


def _band(age: float) -> str:
    if not 0 <= age < 150:  # NaN too
        return ""
    start = int(age // 10) * 10
    return "90+" if start >= 90 else f"{start}-{start + 9}"
