"""Deletion curves and the pointing game: whether a map says something of what the model used, and of where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nc_medfl.inference.looking import scores_without
from nc_medfl.inference.model_file import Network
from nc_medfl.metrics.bootstrap import patient_weights, percentile_intervals

Floats = npt.NDArray[np.float64]

#: Shares of the tokens that are left out; of all of them one stays, since attention over nothing is undefined.
FRACTIONS = tuple(k / 10 for k in range(11))
ORDERS = ("most", "random", "least")
#: Under this many positives (or boxed images) a number is marked as rough.
ENOUGH = 50
_RANDOM_ORDERS = 3


def kept_tokens(ranks: npt.NDArray[np.int64], fraction: float) -> npt.NDArray[np.bool_]:
    """The tokens that stay when a share of them is left out, lowest rank first.

    Args:
        ranks: 0 is left out first, ``[..., T]``.
        fraction: of the T tokens, rounded to whole ones; one always stays.
    """
    tokens = ranks.shape[-1]
    return np.asarray(ranks >= min(round(fraction * tokens), tokens - 1))


def ranks_of(maps: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Rank of each token of maps ``[..., T]``, 0 the most attended; equal ones in their order."""
    order = np.argsort(-maps, axis=-1, kind="stable")
    return np.argsort(order, axis=-1, kind="stable")


def deletion_curves(network: Network, features: Tensor, maps: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Scores while tokens are left out.

    Args:
        network: the model.
        features: ``[B, D, h, w]``.
        maps: what orders the tokens, ``[B, C, h*w]``.
        rng: of the random order.

    Returns:
        By order ``[B, C, fractions]``.
    """
    most = ranks_of(maps)
    least = most.shape[-1] - 1 - most
    orders = {"most": [most], "least": [least]}
    orders["random"] = [np.argsort(rng.random(maps.shape), axis=-1) for _ in range(_RANDOM_ORDERS)]
    return {
        name: np.stack(
            [
                np.mean([scores_without(network, features, kept_tokens(ranks, f)) for ranks in orders[name]], axis=0)
                for f in FRACTIONS
            ],
            axis=-1,
        )
        for name in ORDERS
    }


def area_between(upper: Floats, lower: Floats) -> Floats:
    """Area between curves ``[..., fractions]`` over fractions 0 to 1, by trapezoids."""
    gap = upper - lower
    steps = np.diff(np.asarray(FRACTIONS))
    area: Floats = ((gap[..., 1:] + gap[..., :-1]) / 2 * steps).sum(axis=-1)
    return area


def points_at(map_: npt.NDArray[np.floating[Any]], size: int) -> tuple[int, int] | None:
    """Row and column, in a square, of the middle of the map's highest cell ``[h, w]``; the first of equal ones.

    A map that is resized smoothly is highest in the middle of that cell, too; but at the rim it stays as high as that
    to the edge, and its first highest pixel would be the outermost on two sides alone.

    None for a map that is the same everywhere (Grad-CAM where nothing raised the score): it points nowhere.
    """
    if not np.ptp(map_) > 0:
        return None
    row, column = np.unravel_index(int(np.argmax(map_)), map_.shape)
    return int((row + 0.5) * size / map_.shape[0]), int((column + 0.5) * size / map_.shape[1])


def mean_rows(
    values: dict[str, Floats], patients: Sequence[str], findings: Sequence[str], *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Means over images by finding, and their mean over findings, with patient-clustered percentile intervals.

    Args:
        values: by metric ``[N, C]``, NaN where an image does not count for a finding.
        patients: of the images, ``[N]``.
        findings: names, ``[C]``.
        resamples: of patients.
        seed: of the draws.

    Returns:
        Rows with finding, metric, value, low, high, n_positive and reason.
    """
    table = np.concatenate(list(values.values()), axis=1)
    there = ~np.isnan(table)
    filled = np.where(there, table, 0.0)
    parts = [np.full((0, table.shape[1]), np.nan)]
    several = len(set(patients)) > 1
    for weights in patient_weights(list(patients), resamples if several else 0, seed):
        draws = weights.T.astype(np.float64)
        parts.append(_quotient(draws @ filled, draws @ there))
    drawn = np.concatenate(parts)
    whole = _quotient(filled.sum(axis=0), there.sum(axis=0))
    rows = []
    for k, metric in enumerate(values):
        columns = slice(k * len(findings), (k + 1) * len(findings))
        rows += _rows(metric, whole[columns], drawn[:, columns], there[:, columns].sum(axis=0), findings)
    return rows


def _rows(
    metric: str, whole: Floats, drawn: Floats, counts: npt.NDArray[np.int64], findings: Sequence[str]
) -> list[dict[str, Any]]:
    known = counts > 0
    # A resample without a finding's positives keeps its value, so that the mean is over the same findings.
    steady = np.where(np.isnan(drawn), whole, drawn)[:, known]
    macro_draws = steady.mean(axis=1, keepdims=True) if known.any() else np.full((len(drawn), 1), np.nan)
    macro = whole[known].mean() if known.any() else np.nan
    names = [*findings, "macro"]
    found = percentile_intervals(np.concatenate([drawn, macro_draws], axis=1)) if len(drawn) else None
    rows = []
    for c, name in enumerate(names):
        last = c == len(findings)
        n = int(counts.sum() if last else counts[c])
        value = float(macro if last else whole[c])
        low, high = (np.nan, np.nan) if found is None else (float(found.low[c]), float(found.high[c]))
        rows.append(
            {
                "finding": name,
                "metric": metric,
                "value": value,
                "low": low,
                "high": high,
                "n_positive": n,
                "reason": _reason(n, last, int(known.sum()), (low, high)),
            }
        )
    return rows


def _reason(n: int, macro: bool, known: int, interval: tuple[float, float]) -> str:
    if not n:
        return "no image to measure on"
    said = [f"over {known} findings"] if macro else []
    if not macro and n < ENOUGH:
        said.append(f"rough: fewer than {ENOUGH} images")
    if np.isnan(interval[0]):
        said.append("no interval: too few patients")
    elif interval[0] == interval[1]:
        # Resampling patients who are all alike can't tell how sure the number is.
        said.append("all images alike: the interval says nothing")
    return "; ".join(said)


def _quotient(total: Floats, count: npt.NDArray[Any]) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = np.where(count > 0, total / count, np.nan)
    return result
