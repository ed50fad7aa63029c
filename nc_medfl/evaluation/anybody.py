"""All the tables from a table of predictions, whoever's they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.config import EvaluationSettings
from nc_medfl.errors import UserError
from nc_medfl.evaluation.decide import ScoredSplit, SiteScores
from nc_medfl.evaluation.groups import ATTRIBUTES
from nc_medfl.evaluation.measured import About, Measured, measure_sites
from nc_medfl.evaluation.predictions import Predictions
from nc_medfl.evaluation.tables import POOLED, as_table
from nc_medfl.evaluation.thresholds import Rule
from nc_medfl.labels import Vocabulary
from nc_medfl.metrics.bootstrap import Kind

COUNTS = ("positives", "annotated", "unknown")


def site_scores(predictions: Predictions) -> dict[str, SiteScores]:
    """A table's scores by site, its ``train`` rows left out."""
    found = {}
    for site in predictions.sites:
        test = predictions.of(split="test", site=site)
        parts = (predictions.of(split="val", site=site), test)
        validation, measured = (ScoredSplit(part.scores, part.labels, part.patient) for part in parts)
        known: dict[str, npt.ArrayLike | None] = {name: getattr(test, name) for name in ATTRIBUTES}
        attributes = {name: values for name, values in known.items() if values is not None}
        found[site] = SiteScores(validation, measured, attributes)
    return found


def measure_predictions(
    predictions: Predictions,
    *,
    run: str,
    model: str,
    settings: EvaluationSettings,
    seed: int = 0,
    interval: Kind = "percentile",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Measured:
    """Rows of ``metrics.csv`` and the tables beside it, for each site's test rows and all patients pooled.

    Args:
        predictions: with ``test`` rows; thresholds are chosen on a site's ``val`` rows, and pooled on all of them.
        run: for the rows.
        model: for the rows.
        settings: how to measure.
        seed: of the bootstrap.
        interval: ``percentile`` or ``bca``.
        on_progress: called with (done, total) steps.

    Raises:
        UserError: without a test row.
    """
    test = predictions.of(split="test")
    if not len(test):
        raise UserError(f"{run}: no row with split 'test' to measure on. Mark the rows to be measured as test.")
    about = About(run, model, Vocabulary("predictions", predictions.findings), settings, seed, interval)
    measured = measure_sites(site_scores(predictions), about, on_progress=on_progress)
    counts = [count_rows(test.of(site=site), run=run, model=model, site=site) for site in predictions.sites]
    counts.append(count_rows(test, run=run, model=model, site=POOLED))
    return replace(measured, rows=as_table(pd.concat([measured.rows, *counts], ignore_index=True)))


def evaluate_predictions(
    predictions: Predictions,
    *,
    run: str,
    model: str,
    rule: Rule = "youden",
    resamples: int = 2000,
    seed: int = 0,
    interval: Kind = "percentile",
) -> pd.DataFrame:
    """Rows of ``metrics.csv`` alone, without groups; see :func:`measure_predictions`."""
    settings = EvaluationSettings(threshold=rule, resamples=resamples, groups=())
    return measure_predictions(predictions, run=run, model=model, settings=settings, seed=seed, interval=interval).rows


def count_rows(test: Predictions, *, run: str, model: str, site: str) -> pd.DataFrame:
    """Rows of metrics ``positives``, ``annotated`` and ``unknown`` (images without a label), a finding and in all."""
    known = ~np.isnan(test.labels)
    counts = {
        "positives": (test.labels == 1).sum(axis=0),
        "annotated": known.sum(axis=0),
        "unknown": (~known).sum(axis=0),
    }
    rows = []
    for metric in COUNTS:
        for k, finding in enumerate((*test.findings, "micro")):
            value, positive, annotated = (
                int(c.sum() if k == len(test.findings) else c[k])
                for c in (counts[metric], counts["positives"], counts["annotated"])
            )
            about = {"run": run, "model": model, "site": site, "split": "test", "group": "all"}
            cell = {"finding": finding, "metric": metric, "value": value}
            rows.append({**about, **cell, "n_positive": positive, "n_annotated": annotated, "reason": ""})
    return as_table(rows)
