"""Methods beside each other: means over seeds, paired differences, and which may be called the best."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

Floats = npt.NDArray[np.float64]

#: What the two-sided intervals cover.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with the t-interval of it.

    Attributes:
        mean: NaN without a seed.
        sd: standard deviation over seeds, NaN with fewer than two.
        low: end of the interval, NaN with fewer than two seeds; ``high`` likewise.
        n: seeds.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int


def t_interval(values: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Mean, standard deviation (n - 1) and Student's interval of the mean of some numbers; NaN are left out.

    Example:
        >>> found = t_interval([1.0, 2.0, 3.0])
        >>> round(found.low, 3), round(found.high, 3)
        (-0.484, 4.484)
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    n = len(array)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, np.nan, 0)
    mean = float(array.mean())
    if n == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1)
    sd = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, sd, mean - half, mean + half, n)


def values_of(chosen: pd.DataFrame, metric: str, *, split: str = "test", finding: str = "macro") -> pd.DataFrame:
    """Values by (dataset, partition, seed) and method, from rows of ``chosen.csv``."""
    rows = chosen[(chosen["metric"] == metric) & (chosen["split"] == split) & (chosen["finding"] == finding)]
    rows = rows[rows["site"].isin(["pooled", "all"])]
    table: pd.DataFrame = rows.pivot_table(
        index=["dataset", "partition", "seed"],
        columns="method",
        values="value",
        aggfunc="first",
        dropna=False,
        sort=False,
    )
    return table


def difference(values: pd.DataFrame, method: str, other: str) -> Interval:
    """A method minus another, paired by seed.

    Args:
        values: a row a seed, a column a method.
        method: the first.
        other: the second.
    """
    return t_interval((values[method] - values[other]).to_numpy())


def best_method(values: pd.DataFrame, *, higher: bool = True) -> str | None:
    """The method whose paired interval against every other one excludes 0; None where there is none.

    Args:
        values: a row a seed, a column a method.
        higher: whether more is better.
    """
    means = values.mean().dropna()
    if len(means) < 2:
        return None
    best = str(means.idxmax() if higher else means.idxmin())
    for other in means.index:
        if other == best:
            continue
        gap = difference(values, best, other)
        if not (gap.low > 0 if higher else gap.high < 0):
            return None
    return best
