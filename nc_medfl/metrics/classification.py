"""Metrics of multi-label scores, over all findings at once, with unknown labels left out.

Everything but the two rank metrics is a quotient of sums over images, so a weighting of the images (a
bootstrap resample) is one matrix product. A metric that its counts don't define is NaN and has a reason;
it is never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nc_medfl.metrics.ranking import Ranking, auc_and_average_precision, rank_pairs

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NO_ANNOTATED = "no annotated image"
NO_POSITIVE = "no positive"
NO_NEGATIVE = "no negative"
NONE_PREDICTED = "nothing predicted positive"
ALL_PREDICTED = "nothing predicted negative"
NOT_A_NUMBER = "a score is not a number"
NO_THRESHOLD = "no threshold"
NO_FINDING_DEFINED = "undefined for every finding"


@dataclass(frozen=True, eq=False)
class Counts:
    """A confusion table: true and false positives and negatives, ``[..., K]`` each."""

    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats


def _ratio(above: Floats, below: Floats) -> Floats:
    """The quotient, NaN where there is nothing to divide by."""
    quotient: Floats = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)
    return quotient


def f1(counts: Counts) -> Floats:
    """2 TP / (2 TP + FP + FN); undefined without a positive."""
    value = _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)
    return np.where(counts.tp + counts.fn > 0, value, np.nan)


def f1_all_positive(counts: Counts) -> Floats:
    """The F1 of calling every image positive: the floor below which an F1 says nothing (METHOD section 7)."""
    positives, negatives = counts.tp + counts.fn, counts.fp + counts.tn
    return np.where(positives > 0, _ratio(2 * positives, 2 * positives + negatives), np.nan)


def sensitivity(counts: Counts) -> Floats:
    """TP / (TP + FN): the share of positives that are found."""
    return _ratio(counts.tp, counts.tp + counts.fn)


def specificity(counts: Counts) -> Floats:
    """TN / (TN + FP): the share of negatives that are left alone."""
    return _ratio(counts.tn, counts.tn + counts.fp)


def ppv(counts: Counts) -> Floats:
    """TP / (TP + FP): the share of alarms that are right (precision)."""
    return _ratio(counts.tp, counts.tp + counts.fp)


def npv(counts: Counts) -> Floats:
    """TN / (TN + FN): the share of all-clears that are right."""
    return _ratio(counts.tn, counts.tn + counts.fn)


def mcc(counts: Counts) -> Floats:
    """Matthews' correlation of prediction and label; undefined where either takes one value only."""
    tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
    # Roots first: the product of four sums overflows nothing, but loses digits.
    below = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return _ratio(tp * tn - fp * fn, below)


def accuracy(counts: Counts) -> Floats:
    """(TP + TN) / all."""
    return _ratio(counts.tp + counts.tn, counts.tp + counts.fp + counts.fn + counts.tn)


#: Metrics of a confusion table, by id. They need a threshold.
THRESHOLD_METRICS: dict[str, Callable[[Counts], Floats]] = {
    "f1": f1,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "ppv": ppv,
    "npv": npv,
    "mcc": mcc,
    "accuracy": accuracy,
}

#: Every metric id, in the order of tables.
METRICS = ("auc", "average_precision", *THRESHOLD_METRICS, "brier", "ece", "f1_all_positive")


@dataclass(frozen=True, eq=False)
class Sample:
    """Scores beside labels, made ready to be measured under many weightings; see :func:`prepare_sample`.

    Columns ``K = C + 1`` are the findings and, last, all their pairs together (micro).

    Attributes:
        rankings: of each column, ``K`` of them.
        sums: for each image and column what it adds to ``tp``, ``fp``, ``fn``, ``tn``, ``positive``,
            ``negative`` and ``squared`` (error), ``[N, K]`` each.
        residuals: score minus label, in the column of its calibration bin, ``[N, K, bins]``.
        n_positive: positives, ``[K]``.
        n_annotated: known labels, ``[K]``.
        blocked: why a column has no metric at all, ``""`` where it has.
        threshold_reasons: why a column has no metric at a threshold, ``""`` where it has.
    """

    rankings: tuple[Ranking, ...]
    sums: dict[str, Floats]
    residuals: Floats
    n_positive: npt.NDArray[np.int64]
    n_annotated: npt.NDArray[np.int64]
    blocked: tuple[str, ...]
    threshold_reasons: tuple[str, ...]

    @property
    def n_images(self) -> int:
        """Images, annotated or not."""
        return len(self.residuals)


def prepare_sample(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    thresholds: npt.ArrayLike | None = None,
    threshold_reasons: Sequence[str] | None = None,
    bins: int = 10,
) -> Sample:
    """Check scores and labels, and do once what every weighting needs.

    Args:
        scores: probabilities, ``[N, C]``. A finding with a known label but no finite score is not measured.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.
        thresholds: a score of this or more is a positive call, ``[C]``; NaN where there is none.
        threshold_reasons: why there is none, ``[C]``.
        bins: of the expected calibration error; they hold equal shares of the known pairs, equal scores together.

    Raises:
        ValueError: if shapes differ, a label is none of 0, 1 and NaN, or a score lies outside [0, 1].
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    _check(scores, labels)
    n_findings = scores.shape[1]
    cut = np.full(n_findings, np.nan) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    if cut.shape != (n_findings,):
        raise ValueError(f"{n_findings} findings need as many thresholds, not {cut.shape}")
    annotated = ~np.isnan(labels)
    broken = (annotated & ~np.isfinite(scores)).any(axis=0)
    known = annotated & ~broken
    columns = [np.flatnonzero(known[:, c]) for c in range(n_findings)]
    rankings = [rank_pairs(scores[rows, c], labels[rows, c], rows) for c, rows in enumerate(columns)]
    rows, cells = np.nonzero(known)
    rankings.append(rank_pairs(scores[rows, cells], labels[rows, cells], rows))
    scores = np.where(known, scores, 0.0)
    n_annotated, n_positive = annotated.sum(axis=0), (labels == 1).sum(axis=0)
    why = list(threshold_reasons or [NO_THRESHOLD] * n_findings)
    why = [reason or NO_THRESHOLD if np.isnan(t) else "" for t, reason in zip(cut, why, strict=True)]
    return Sample(
        tuple(rankings),
        _sums(scores, labels, known, cut),
        _residuals(scores, labels, known, bins),
        np.append(n_positive, n_positive.sum()),
        np.append(n_annotated, n_annotated.sum()),
        (*(_blocked(b, n) for b, n in zip(broken, n_annotated, strict=True)), _blocked(broken.all(), len(rows))),
        (*why, (why[0] if len(set(why)) == 1 else NO_THRESHOLD) if n_findings and all(why) else ""),
    )


def _check(scores: Floats, labels: Floats) -> None:
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"scores and labels must both be [N, C], not {scores.shape} and {labels.shape}")
    if not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
        raise ValueError("a label must be 0, 1 or NaN")
    if ((scores < 0) | (scores > 1)).any():
        raise ValueError("a score must be a probability in [0, 1]")


def _blocked(broken: bool | np.bool_, n_annotated: int | np.int64) -> str:
    return NOT_A_NUMBER if broken and n_annotated else "" if n_annotated else NO_ANNOTATED


def _with_micro(values: npt.NDArray[np.generic]) -> Floats:
    """Append the sum over findings as one more column."""
    values = values.astype(np.float64)
    return np.concatenate([values, values.sum(axis=1, keepdims=True)], axis=1)


def _sums(scores: Floats, labels: Floats, known: Bools, thresholds: Floats) -> dict[str, Floats]:
    positive, negative = known & (labels == 1), known & (labels == 0)
    cut = ~np.isnan(thresholds)
    called = scores >= thresholds
    return {
        "tp": _with_micro(positive & called & cut),
        "fp": _with_micro(negative & called & cut),
        "fn": _with_micro(positive & ~called & cut),
        "tn": _with_micro(negative & ~called & cut),
        "positive": _with_micro(positive),
        "negative": _with_micro(negative),
        "squared": _with_micro(np.where(known, np.square(scores - np.nan_to_num(labels)), 0.0)),
    }


def _residuals(scores: Floats, labels: Floats, known: Bools, bins: int) -> Floats:
    """Score minus label in the place of its bin, ``[N, C + 1, bins]``; micro has bins of its own."""
    n_images, n_findings = scores.shape
    out = np.zeros((n_images, n_findings + 1, bins))
    residual = scores - np.nan_to_num(labels)
    for c in range(n_findings):
        rows = np.flatnonzero(known[:, c])
        out[rows, c, equal_mass_bins(scores[rows, c], bins)] = residual[rows, c]
    rows, cells = np.nonzero(known)
    np.add.at(out[:, n_findings], (rows, equal_mass_bins(scores[rows, cells], bins)), residual[rows, cells])
    return out


def equal_mass_bins(scores: Floats, bins: int) -> npt.NDArray[np.int64]:
    """The bin of each score, so that bins hold about equally many and equal scores share one.

    A score's bin follows from the middle of the ranks that it and its equals take.

    Args:
        scores: ``[M]``.
        bins: how many.
    """
    _, inverse, count = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    return np.floor(bins * middle / max(len(scores), 1)).astype(np.int64)[inverse]


def measure(
    sample: Sample, weights: npt.NDArray[np.floating] | None = None, each: Callable[..., Iterable[Any]] = map
) -> dict[str, Floats]:
    """Every metric of a sample.

    Args:
        sample: of ``C`` findings.
        weights: how often each image counts, ``[N, B]``; None counts each once (``B = 1``).
        each: applies a function to each column's ranking, in order; a thread pool's ``map`` shares the work.

    Returns:
        By metric id ``[B, C + 2]``: the findings, their mean where defined (macro), and all pairs
        together (micro). NaN where undefined.
    """
    if weights is None:
        weights = np.ones((sample.n_images, 1))
    ranked = list(each(partial(auc_and_average_precision, weights=weights), sample.rankings))
    by_resample = weights.T.astype(np.float64)
    total = {name: by_resample @ part for name, part in sample.sums.items()}
    counts = Counts(total["tp"], total["fp"], total["fn"], total["tn"])
    annotated = total["positive"] + total["negative"]
    zero = np.zeros_like(annotated)
    values = {
        "auc": np.stack([auc for auc, _ in ranked], axis=1),
        "average_precision": np.stack([precision for _, precision in ranked], axis=1),
        **{name: metric(counts) for name, metric in THRESHOLD_METRICS.items()},
        "brier": _ratio(total["squared"], annotated),
        "ece": _ratio(np.abs(np.tensordot(by_resample, sample.residuals, axes=1)).sum(axis=-1), annotated),
        "f1_all_positive": f1_all_positive(Counts(total["positive"], total["negative"], zero, zero)),
    }
    return {name: _insert_macro(value) for name, value in values.items()}


def _insert_macro(values: Floats) -> Floats:
    findings = values[:, :-1]
    defined = ~np.isnan(findings)
    macro = _ratio(np.where(defined, findings, 0.0).sum(axis=1), defined.sum(axis=1))
    return np.concatenate([findings, macro[:, None], values[:, -1:]], axis=1)


def reasons(sample: Sample, values: dict[str, Floats]) -> dict[str, list[str]]:
    """What stands beside each value: why it is undefined, or over how many findings a mean is.

    Args:
        sample: what was measured.
        values: what :func:`measure` gave for it with every image counted once.

    Returns:
        By metric id, ``C + 2`` texts, ``""`` where there is nothing to say.
    """
    out: dict[str, list[str]] = {}
    for name, value in values.items():
        texts = [_reason(sample, name, k) if np.isnan(v) else "" for k, v in enumerate(np.delete(value[0], -2))]
        defined = int((~np.isnan(value[0, :-2])).sum())
        n_findings = len(texts) - 1
        macro = f"mean over {defined} of {n_findings} findings" if defined else NO_FINDING_DEFINED
        if not texts[-1]:
            texts[-1] = _micro_remark(sample, name)
        out[name] = [*texts[:-1], macro, texts[-1]]
    return out


def _micro_remark(sample: Sample, metric: str) -> str:
    needed = sample.threshold_reasons[:-1] if metric in THRESHOLD_METRICS else [""] * len(sample.blocked[:-1])
    used = sum(not (a or b) for a, b in zip(sample.blocked[:-1], needed, strict=True))
    return "" if used == len(needed) else f"pairs of {used} of {len(needed)} findings"


def _reason(sample: Sample, metric: str, column: int) -> str:
    if sample.blocked[column]:
        return sample.blocked[column]
    if metric in THRESHOLD_METRICS and sample.threshold_reasons[column]:
        return sample.threshold_reasons[column]
    total = {name: float(part[:, column].sum()) for name, part in sample.sums.items()}
    lacking = {
        NO_POSITIVE: total["positive"],
        NO_NEGATIVE: total["negative"],
        NONE_PREDICTED: total["tp"] + total["fp"],
        ALL_PREDICTED: total["tn"] + total["fn"],
    }
    return next((text for text in _NEEDS[metric] if lacking[text] == 0), "undefined")


#: What a metric needs, in the order in which its lack is told.
_NEEDS: dict[str, tuple[str, ...]] = {
    "auc": (NO_POSITIVE, NO_NEGATIVE),
    "average_precision": (NO_POSITIVE,),
    "f1": (NO_POSITIVE,),
    "sensitivity": (NO_POSITIVE,),
    "specificity": (NO_NEGATIVE,),
    "ppv": (NONE_PREDICTED,),
    "npv": (ALL_PREDICTED,),
    "mcc": (NO_POSITIVE, NO_NEGATIVE, NONE_PREDICTED, ALL_PREDICTED),
    "accuracy": (),
    "brier": (),
    "ece": (),
    "f1_all_positive": (NO_POSITIVE,),
}


def auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Area under the ROC curve of each finding, ties counted half.

    Args:
        scores: ``[N, C]``.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.

    Returns:
        ``[C]``; NaN without a positive or without a negative.
    """
    return measure(prepare_sample(scores, labels))["auc"][0, :-2]


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Average precision of each finding: the sum of precisions, weighted with the steps in recall.

    Args:
        scores: ``[N, C]``.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.

    Returns:
        ``[C]``; NaN without a positive.
    """
    return measure(prepare_sample(scores, labels))["average_precision"][0, :-2]


def confusion(scores: npt.ArrayLike, labels: npt.ArrayLike, thresholds: npt.ArrayLike) -> Counts:
    """The confusion table of each finding; a score at its threshold or above is a positive call.

    Args:
        scores: ``[N, C]``.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.
        thresholds: ``[C]``; a finding with NaN has an empty table.

    Returns:
        Counts, ``[C]`` each.
    """
    sums = prepare_sample(scores, labels, thresholds).sums
    return Counts(*(sums[name].sum(axis=0)[:-1] for name in ("tp", "fp", "fn", "tn")))
