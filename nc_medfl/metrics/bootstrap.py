"""Intervals by resampling patients, since images of one patient are no independent evidence.

A resample is a weighting: each image counts as often as its patient was drawn. So all metrics of many
resamples come from one sort and one matrix product (:func:`nc_medfl.metrics.classification.measure`).
Thresholds and calibration bins stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from nc_medfl.metrics.classification import METRICS, Floats, Sample, measure
from nc_medfl.metrics.ranking import auc_and_average_precision, rank_pairs

#: How ends of an interval are read from the resamples.
Kind = Literal["percentile", "bca"]

#: An interval needs the metric to be defined in this share of the resamples.
_MIN_DEFINED = 0.9

#: Weights of one block of resamples, in bytes, at most (a bootstrap over many images works in blocks).
_BLOCK_BYTES = 64_000_000

#: Share the columns; numpy lets go of the interpreter in what takes long.
_THREADS = 2


@dataclass(frozen=True, eq=False)
class Intervals:
    """Percentile intervals of one metric.

    Attributes:
        low: lower ends, ``[K]``, NaN where there is no interval.
        high: upper ends, ``[K]``.
        reasons: why there is no interval, or what it leaves out; ``""`` where there is nothing to say.
    """

    low: Floats
    high: Floats
    reasons: tuple[str, ...]


def patient_weights(
    patients: npt.ArrayLike, resamples: int, seed: int, block: int | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """Draw patients with replacement, and say how often each image counts.

    Args:
        patients: a number or text a patient, ``[N]``.
        resamples: how many.
        seed: the same one draws the same patients, whatever the block: two models on the same patients
            can be compared resample by resample.
        block: resamples in one array; None takes what memory allows.

    Yields:
        Weights ``[N, b]``, whole numbers, until all resamples are drawn.
    """
    _, codes = np.unique(np.asarray(patients), return_inverse=True)
    n_patients = int(codes.max(initial=-1)) + 1
    block = block or max(1, _BLOCK_BYTES // (4 * max(len(codes), 1)))
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        # 64-bit draws: narrower ones are cut from a buffer, which would tie the stream to the block.
        drawn = rng.integers(0, max(n_patients, 1), size=(size, n_patients), dtype=np.int64)
        drawn += np.arange(size)[:, None] * n_patients
        counts = np.bincount(drawn.ravel(), minlength=size * n_patients).reshape(size, n_patients)
        yield np.ascontiguousarray(counts.T, dtype=np.float32)[codes]


def resample(sample: Sample, patients: npt.ArrayLike, *, resamples: int = 1000, seed: int = 0) -> dict[str, Floats]:
    """Every metric in every resample.

    Args:
        sample: of ``N`` images and ``C`` findings.
        patients: of the images, ``[N]``.
        resamples: how many, ``B``.
        seed: of the draws.

    Returns:
        By metric id ``[B, C + 2]``, as :func:`~nc_medfl.metrics.classification.measure` orders columns.

    Raises:
        ValueError: if there is not one patient an image.
    """
    if np.shape(patients) != (sample.n_images,):
        raise ValueError(f"{sample.n_images} images need as many patients, not {np.shape(patients)}")
    # The pairs of all findings are ranked together for micro, so a block is smaller by as much.
    pairs = max(sample.n_images, int(sample.n_annotated[-1]), 1)
    blocks = patient_weights(patients, resamples, seed, max(1, min(250, _BLOCK_BYTES // (4 * pairs))))
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = [measure(sample, weights, pool.map) for weights in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentile_intervals(draws: Floats, level: float = 0.95) -> Intervals:
    """Percentile intervals of resampled values.

    Args:
        draws: ``[B, K]``, NaN where a resample leaves the metric undefined.
        level: the share of resamples inside.
    """
    defined = (~np.isnan(draws)).mean(axis=0)
    enough = defined >= _MIN_DEFINED
    low, high = np.full((2, draws.shape[1]), np.nan)
    if enough.any():
        low[enough], high[enough] = np.nanquantile(draws[:, enough], [(1 - level) / 2, (1 + level) / 2], axis=0)
    reasons = tuple(
        "" if ok else f"no interval: defined in {share:.0%} of resamples"
        for ok, share in zip(enough, defined, strict=True)
    )
    return Intervals(low, high, reasons)


def bca_intervals(draws: Floats, whole: Floats, left_out: Floats, level: float = 0.95) -> Intervals:
    """Bias-corrected and accelerated intervals (Efron 1987).

    Args:
        draws: resampled values, ``[B, K]``, NaN where undefined.
        whole: the values of the sample itself, ``[K]``.
        left_out: values without each group of patients in turn, ``[G, K]``: the jackknife that the
            acceleration comes from.
        level: the share that the interval is to cover.

    Returns:
        As :func:`percentile_intervals`; where all draws lie on one side of the value, there is no correction to
        make and no interval.
    """
    plain = percentile_intervals(draws, level)
    low, high, reasons = plain.low.copy(), plain.high.copy(), list(plain.reasons)
    for k in np.flatnonzero(~np.isnan(plain.low)):
        column = draws[~np.isnan(draws[:, k]), k]
        share = ((column < whole[k]).mean() + (column <= whole[k]).mean()) / 2
        if not 0 < share < 1:
            low[k] = high[k] = np.nan
            reasons[k] = "no interval: every resample lies on one side of the value"
            continue
        jack = left_out[~np.isnan(left_out[:, k]), k]
        pull = jack.mean() - jack if len(jack) else np.zeros(1)
        below = 6 * (pull**2).sum() ** 1.5
        acceleration = (pull**3).sum() / below if below > 0 else 0.0
        shift = ndtri(share)
        z = shift + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
        low[k], high[k] = np.quantile(column, ndtr(shift + z / (1 - acceleration * z)))
    return Intervals(low, high, tuple(reasons))


def leave_groups_out(sample: Sample, patients: npt.ArrayLike, *, groups: int = 200, seed: int = 0) -> dict[str, Floats]:
    """Every metric without each group of patients in turn; a group is a patient, where there are few enough.

    Args:
        sample: of ``N`` images.
        patients: of the images, ``[N]``.
        groups: at most.
        seed: of the dealing of patients into groups.

    Returns:
        By metric id ``[G, C + 2]``.
    """
    _, codes = np.unique(np.asarray(patients), return_inverse=True)
    n_patients = int(codes.max(initial=-1)) + 1
    n_groups = min(groups, n_patients)
    group = (np.random.default_rng(seed).permutation(n_patients) % max(n_groups, 1))[codes]
    pairs = max(sample.n_images, int(sample.n_annotated[-1]), 1)
    block = max(1, min(n_groups, _BLOCK_BYTES // (4 * pairs)))
    starts = range(0, n_groups, block)
    parts = [
        measure(sample, (group[:, None] != np.arange(a, min(a + block, n_groups))).astype(np.float32)) for a in starts
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def bootstrap_auc(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    threads: int = _THREADS,
) -> Floats:
    """The AUC of each finding in each resample of patients: one sort a finding, then weighted sums.

    Args:
        scores: ``[N, C]``, finite.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.
        patients: ``[N]``.
        resamples: how many, ``B``.
        seed: of the draws; they are those of :func:`resample`.
        threads: that share the findings.

    Returns:
        ``[B, C]``, NaN where a resample lacks a positive or a negative.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    known = [np.flatnonzero(~np.isnan(labels[:, c])) for c in range(scores.shape[1])]
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        rankings = list(
            pool.map(lambda c: rank_pairs(scores[known[c], c], labels[known[c], c], known[c]), range(len(known)))
        )
        block = max(1, min(100, _BLOCK_BYTES // (4 * max(len(scores), 1))))
        parts = [
            np.stack(
                [auc for auc, _ in pool.map(partial(auc_and_average_precision, weights=weights), rankings)], axis=1
            )
            for weights in patient_weights(patients, resamples, seed, block)
        ]
    return np.concatenate(parts)


def bootstrap(
    sample: Sample,
    patients: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    interval: Kind = "percentile",
) -> dict[str, Intervals]:
    """Patient-clustered intervals of every metric.

    Args:
        sample: of ``N`` images and ``C`` findings.
        patients: of the images, ``[N]``.
        resamples: how many; 0 gives no intervals.
        seed: of the draws.
        level: of confidence.
        interval: ``percentile``, or ``bca`` for bias-corrected and accelerated.

    Returns:
        By metric id, intervals of ``K = C + 2`` columns: findings, macro, micro.
    """
    n_columns = len(sample.rankings) + 1
    none = Intervals(np.full(n_columns, np.nan), np.full(n_columns, np.nan), ("",) * n_columns)
    if resamples == 0:
        return dict.fromkeys(METRICS, none)
    if len(np.unique(np.asarray(patients))) < 2:
        few = Intervals(none.low, none.high, ("no interval: fewer than 2 patients",) * n_columns)
        return dict.fromkeys(METRICS, few)
    draws = resample(sample, patients, resamples=resamples, seed=seed)
    whole = measure(sample)
    left_out = leave_groups_out(sample, patients, seed=seed) if interval == "bca" else dict.fromkeys(whole)
    return {name: intervals_of(values, whole[name][0], level, left_out[name]) for name, values in draws.items()}


def with_steady_macro(draws: Floats, whole: Floats) -> Floats:
    """Draws with a macro that is over the same findings in every resample.

    A resample can miss every positive patient of a rare finding. Were it left out of that resample's mean, the
    mean would be over other findings than the one reported, and the interval beside it, not around it. So its
    value in the whole sample stands in.

    Args:
        draws: of one metric, or of its difference between two models, ``[B, C + 2]``.
        whole: the same of the sample itself, ``[C + 2]``.
    """
    counted = ~np.isnan(whole[:-2])
    steady = np.where(np.isnan(draws[:, :-2]), whole[:-2], draws[:, :-2])[:, counted]
    draws = draws.copy()
    draws[:, -2] = steady.mean(axis=1) if counted.any() else np.nan
    return draws


def intervals_of(draws: Floats, whole: Floats, level: float = 0.95, left_out: Floats | None = None) -> Intervals:
    """Intervals of one metric, macro by :func:`with_steady_macro`; a remark says for how many findings it stood in.

    Args:
        draws: ``[B, C + 2]``.
        whole: of the sample itself, ``[C + 2]``.
        level: of confidence.
        left_out: without each group of patients, for BCa; None for the percentiles.
    """
    draws = with_steady_macro(draws, whole)
    counted = ~np.isnan(whole[:-2])
    found = percentile_intervals(draws, level) if left_out is None else bca_intervals(draws, whole, left_out, level)
    rare = int(((~np.isnan(draws[:, :-2][:, counted])).mean(axis=0) < _MIN_DEFINED).sum())
    if not rare:
        return found
    if 2 * rare >= counted.sum():
        # Mostly fixed values would make an interval that is narrow for want of evidence.
        return Intervals(
            np.append(found.low[:-2], [np.nan, found.low[-1]]),
            np.append(found.high[:-2], [np.nan, found.high[-1]]),
            (*found.reasons[:-2], f"no interval: {rare} of {counted.sum()} findings are too rare", found.reasons[-1]),
        )
    remark = f"interval holds {rare} rare findings fixed"
    return Intervals(found.low, found.high, (*found.reasons[:-2], remark, found.reasons[-1]))
