"""``federation.csv``: how a model does over all sites' patients together, from histograms of counts alone.

``low`` and ``high`` bound what the pooled scores would give, for certain: they hold the error of the bins and of the
images that sites hold back. They are no confidence interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.config import JobSettings
from nc_medfl.evaluation.result_tables import write_rows
from nc_medfl.federation import keys
from nc_medfl.federation.refusal import RefusedUpdate
from nc_medfl.federation.score_counts import FindingRuns, ScoreCounts, read_counts
from nc_medfl.labels import load_vocabulary
from nc_medfl.metrics.histograms import Bounded, Runs, auc_bounds, brier_bounds, ece_bounds, join, mass_edges

Row = dict[str, Any]

#: Columns of ``federation.csv``, in order.
FEDERATION_COLUMNS = (
    "run",
    "model",
    "split",
    "finding",
    "metric",
    "value",
    "low",
    "high",
    "n_sites",
    "n_positive",
    "n_annotated",
    "n_withheld",
    "reason",
)
METRICS = ("auc", "brier", "ece")
#: After the point, of a bound.
_DIGITS = 6
TEST, MACRO = "test", "macro"
NO_SITE = "no site sends a histogram of it"


def write_federation(
    folder: Path,
    metas: Mapping[str, Mapping[str, Any]],
    site_rows: Sequence[Row],
    job: JobSettings,
    warn: Callable[[str], None],
) -> None:
    """Write ``federation.csv`` from the sites' answers to the final test.

    Args:
        folder: of the results.
        metas: what came from each site beside its parameters.
        site_rows: the sites' rows of final metrics, checked.
        job: its settings.
        warn: told of a site whose histograms are malformed; they are left out.
    """
    findings = load_vocabulary(job.vocabulary).findings
    told: dict[str, ScoreCounts] = {}
    for site, meta in sorted(metas.items()):
        try:
            counts = read_counts(meta, findings, job.aggregation.max_samples)
        except RefusedUpdate as reason:
            warn(f"histograms of {site} refused: {reason}")
            continue
        if counts is not None:
            told[site] = counts
    rows = federation_rows(told, site_rows, findings, run=job.name, model=job.method)
    write_rows(pd.DataFrame(rows, columns=list(FEDERATION_COLUMNS)), folder / keys.FEDERATION_CSV)


def federation_rows(
    counts: Mapping[str, ScoreCounts], site_rows: Sequence[Row], findings: Sequence[str], *, run: str, model: str
) -> list[Row]:
    """Rows of ``federation.csv``: AUC, Brier score and calibration error of each finding, and their mean.

    Args:
        counts: histograms by site, of the sites that sent any.
        site_rows: the sites' own rows of final metrics; their counts of labels tell how many images a site holds
            back from its histograms.
        findings: the vocabulary's.
        run: for the rows, as is ``model``.
        model: which model.
    """
    known = {
        (row["site"], row["finding"]): (int(row.get("n_positive") or 0), int(row.get("n_annotated") or 0))
        for row in site_rows
        if row.get("metric") == "auc" and row.get("group") == "all" and row.get("split") == TEST
    }
    about = {"run": run, "model": model, "split": TEST}
    rows: list[Row] = []
    for finding in findings:
        parts = {site: told[TEST][finding] for site, told in counts.items() if finding in told.get(TEST, {})}
        labels = [known.get((site, finding), (0, 0)) for site in parts]
        rows += [{**about, "finding": finding, **row} for row in _finding_rows(list(parts.values()), labels)]
    return rows + [{**about, "finding": MACRO, **_macro(rows, metric, len(findings))} for metric in METRICS]


def _finding_rows(parts: Sequence[FindingRuns], labels: Sequence[tuple[int, int]]) -> list[Row]:
    positives, negatives = join([part.positive for part in parts]), join([part.negative for part in parts])
    n_positive = sum(positive for positive, _ in labels)
    n_negative = sum(annotated for _, annotated in labels) - n_positive
    # A site's counts of labels and its histograms should agree; where they don't, nothing is held back.
    hidden = max(0, n_positive - positives.total), max(0, n_negative - negatives.total)
    found = _bounds(positives, negatives, hidden) if parts else dict.fromkeys(METRICS, _nothing())
    return [
        {
            "metric": metric,
            "value": _or_none(bounds.value),
            "low": _or_none(_outward(bounds.low, -1)),
            "high": _or_none(_outward(bounds.high, 1)),
            "n_sites": len(parts),
            "n_positive": positives.total,
            "n_annotated": positives.total + negatives.total,
            "n_withheld": sum(hidden),
            "reason": bounds.reason,
        }
        for metric, bounds in found.items()
    ]


def _bounds(positives: Runs, negatives: Runs, hidden: tuple[int, int]) -> dict[str, Bounded]:
    groups = mass_edges(positives, negatives)
    return {
        "auc": auc_bounds(positives, negatives, hidden_positives=hidden[0], hidden_negatives=hidden[1]),
        "brier": brier_bounds(positives, negatives, hidden=sum(hidden)),
        "ece": ece_bounds(positives, negatives, groups, hidden=sum(hidden)),
    }


def _nothing() -> Bounded:
    return Bounded(np.nan, np.nan, np.nan, NO_SITE)


def _macro(rows: Sequence[Row], metric: str, n_findings: int) -> Row:
    """The mean over findings; the mean of bounds bounds the mean."""
    told = [row for row in rows if row["metric"] == metric and row["value"] is not None]
    means = {name: float(np.mean([row[name] for row in told])) if told else None for name in ("value", "low", "high")}
    if means["low"] is not None and means["high"] is not None:
        means |= {"low": _outward(means["low"], -1), "high": _outward(means["high"], 1)}
    totals = {name: sum(row[name] for row in told) for name in ("n_positive", "n_annotated", "n_withheld")}
    reason = f"mean over {len(told)} of {n_findings} findings" if told else "undefined for every finding"
    return {
        "metric": metric,
        **means,
        "n_sites": max((row["n_sites"] for row in told), default=0),
        **totals,
        "reason": reason,
    }


def _outward(bound: float, way: int) -> float:
    """A bound with no more digits than the table has; cut off as they are elsewhere, it would bound no longer."""
    whole = round(bound * 10**_DIGITS, 6)  # 0.29 is no less than 0.29 for its binary digits
    return bound if math.isnan(bound) else (math.floor(whole) if way < 0 else math.ceil(whole)) / 10**_DIGITS


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
