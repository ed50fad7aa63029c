"""The long table of results: one row a (site, finding, metric), with interval, counts and reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.evaluation.thresholds import Thresholds
from nc_medfl.labels import Vocabulary
from nc_medfl.metrics.bootstrap import Kind, bootstrap
from nc_medfl.metrics.classification import METRICS, Sample, measure, prepare_sample, reasons
from nc_medfl.metrics.fairness import Estimate, mean_interval

#: Columns of ``metrics.csv``, in order.
COLUMNS = (
    "run",
    "model",
    "site",
    "split",
    "group",
    "finding",
    "metric",
    "value",
    "low",
    "high",
    "n_positive",
    "n_annotated",
    "reason",
)

MACRO, MICRO = "macro", "micro"
ALL_SITES, POOLED = "all", "pooled"
THRESHOLD = "threshold"

#: With fewer patients of the one label or the other than this, an interval is rough (benchmarks/coverage.py).
ENOUGH = 50
ROUGH = f"rough interval: fewer than {ENOUGH} of each label"
_NO_INTERVAL = "no interval"
_ONE_WITHOUT = f"{_NO_INTERVAL}: one of these sites has none"

Rows = list[dict[str, Any]]


def evaluate_site(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    thresholds: Thresholds | None,
    run: str,
    model: str,
    site: str,
    split: str,
    vocabulary: Vocabulary,
    group: str = "all",
    resamples: int = 1000,
    seed: int = 0,
    interval: Kind = "percentile",
) -> pd.DataFrame:
    """Every metric of one site (or of several sites' patients pooled), with intervals.

    Args:
        scores: probabilities, ``[N, C]``; no image at all (``[0, 0]``) gives rows that say so.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.
        patients: a number or text a patient, ``[N]``; intervals resample patients.
        thresholds: chosen on validation; None, or thresholds for no finding, leaves the metrics that need
            one empty.
        run: for the rows, as are ``model``, ``site``, ``split`` and ``group``.
        model: which model.
        site: where, or ``pooled``.
        split: which split.
        vocabulary: names of the ``C`` findings.
        group: which patients, ``all`` or as in ``sex=F``.
        resamples: of the bootstrap; 0 gives no intervals.
        seed: of the bootstrap.
        interval: ``percentile`` or ``bca``.

    Returns:
        Rows with the columns of ``metrics.csv``: for each metric the findings, ``macro`` (mean over the
        findings for which it is defined) and ``micro`` (all known pairs of an image and a finding), and
        each finding's ``threshold``.

    Raises:
        ValueError: if shapes don't fit or values are not probabilities and labels.
    """
    n_findings = len(vocabulary)
    scores, labels = _at_least_empty(scores, n_findings), _at_least_empty(labels, n_findings)
    if thresholds is None or not len(thresholds.values):
        thresholds = Thresholds.none(n_findings)
    sample = prepare_sample(scores, labels, thresholds.values, thresholds.reasons)
    about = {"run": run, "model": model, "site": site, "split": split, "group": group}
    rows = _metric_rows(sample, patients, vocabulary.findings, resamples, seed, interval)
    rows += _threshold_rows(sample, thresholds, vocabulary.findings)
    return as_table([{**about, **row} for row in rows])


def _at_least_empty(values: npt.ArrayLike, n_findings: int) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return np.empty((0, n_findings)) if array.size == 0 else array


def _metric_rows(
    sample: Sample, patients: npt.ArrayLike, findings: Sequence[str], resamples: int, seed: int, interval: Kind
) -> Rows:
    values = measure(sample)
    texts = reasons(sample, values)
    few = few_patients(sample, patients)
    intervals = bootstrap(sample, patients, resamples=resamples, seed=seed, interval=interval)
    rows: Rows = []
    for metric in METRICS:
        value, found = values[metric][0], intervals[metric]
        n_positive, n_annotated = _counts(sample, ~np.isnan(value[:-2]))
        for k, name in enumerate((*findings, MACRO, MICRO)):
            defined = bool(~np.isnan(value[k]))
            remarks = [texts[metric][k], found.reasons[k] if defined else ""]
            if defined and not np.isnan(found.low[k]):
                remarks.append(_doubt(value[k], found.low[k], found.high[k]))
                if name != MACRO and few[k]:
                    remarks.append(ROUGH)
            rows.append(
                {
                    "finding": name,
                    "metric": metric,
                    "value": value[k],
                    "low": found.low[k] if defined else np.nan,
                    "high": found.high[k] if defined else np.nan,
                    "n_positive": n_positive[k],
                    "n_annotated": n_annotated[k],
                    "reason": "; ".join(text for text in remarks if text),
                }
            )
    return rows


def few_patients(sample: Sample, patients: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Where fewer than :data:`ENOUGH` patients have the one label or the other: findings, macro, micro, ``[C + 2]``.

    Many images of few patients are no more evidence than those patients are. A macro rests on all its patients.
    """
    codes = np.unique(np.asarray(patients), return_inverse=True)[1]
    kinds = (sample.sums["positive"] > 0, sample.sums["negative"] > 0)
    counts = [[len(np.unique(codes[column])) for column in kind.T] for kind in kinds]
    fewest = np.insert(np.min(counts, axis=0), -1, len(np.unique(codes)))
    few: npt.NDArray[np.bool_] = fewest < ENOUGH
    return few


def _doubt(value: float, low: float, high: float) -> str:
    """What to say of an interval that its own value lies outside of (an ECE's, mostly: drawing again adds error)."""
    return "" if low <= value <= high else "interval is biased: resampling shifts this metric"


def _counts(sample: Sample, defined: npt.NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """Positives and known labels of findings, macro (the findings that it averages) and micro."""
    positive, annotated = (
        [int(n) for n in (*count[:-1], count[:-1][defined].sum(), count[-1])]
        for count in (sample.n_positive, sample.n_annotated)
    )
    return positive, annotated


def _threshold_rows(sample: Sample, thresholds: Thresholds, findings: Sequence[str]) -> Rows:
    return [
        {
            "finding": name,
            "metric": THRESHOLD,
            "value": thresholds.values[k],
            "low": np.nan,
            "high": np.nan,
            "n_positive": int(sample.n_positive[k]),
            "n_annotated": int(sample.n_annotated[k]),
            "reason": thresholds.reasons[k],
        }
        for k, name in enumerate(findings)
    ]


def mean_over_sites(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of site ``all``: the mean over sites of each value, where it is defined.

    Every site counts the same, whatever its size. The interval is put together from the sites' own, which are of
    different patients and so independent; it is of these sites, not of others like them.

    Args:
        rows: as :func:`evaluate_site` gives them, of one site or more; ``all`` and ``pooled`` are left out.
    """
    rows = as_table(rows[~rows["site"].isin([ALL_SITES, POOLED])])
    keys = ["run", "model", "split", "group", "finding", "metric"]
    out: Rows = []
    for key, part in rows.groupby(keys, sort=False):
        told = part[part["value"].notna()]
        low, high = _mean_ends(told)
        out.append(
            {
                **dict(zip(keys, key, strict=True)),
                "site": ALL_SITES,
                "value": part["value"].mean(),
                "low": low,
                "high": high,
                "n_positive": int(part["n_positive"].sum()),
                "n_annotated": int(part["n_annotated"].sum()),
                "reason": _mean_reason(told, len(part)),
            }
        )
    return as_table(out)


def _mean_ends(told: pd.DataFrame) -> tuple[float, float]:
    columns = (told[name].tolist() for name in ("value", "low", "high"))
    return mean_interval([Estimate("", *ends) for ends in zip(*columns, strict=True)])


def _mean_reason(told: pd.DataFrame, n_sites: int) -> str:
    if not len(told):
        return "undefined at every site"
    texts = [f"mean over {len(told)} of {n_sites} sites"]
    without, n_rough = int(told["low"].isna().sum()), int(told["reason"].str.contains(ROUGH, regex=False).sum())
    if without and (without < len(told) or told["reason"].str.contains(_NO_INTERVAL, regex=False).any()):
        texts.append(f"{_NO_INTERVAL}: {without} of these sites have none" if without > 1 else _ONE_WITHOUT)
    elif n_rough:
        texts.append(f"{ROUGH} at {n_rough} of these sites")
    return "; ".join(texts)


def as_table(rows: Rows | pd.DataFrame) -> pd.DataFrame:
    """Rows with the columns and types of ``metrics.csv``; None becomes NaN or an empty text."""
    table: pd.DataFrame = pd.DataFrame(rows, columns=list(COLUMNS))
    for column in COLUMNS:
        if column in ("value", "low", "high"):
            table[column] = pd.to_numeric(table[column]).astype("float64")
        elif column in ("n_positive", "n_annotated"):
            table[column] = pd.to_numeric(table[column]).fillna(0).astype("int64")
        else:
            table[column] = table[column].astype(object).where(table[column].notna(), "").astype(str)
    table.index = pd.RangeIndex(len(table))
    return table
