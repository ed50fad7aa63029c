"""The long table of results from a table of predictions, whoever's they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.evaluation.predictions import Predictions
from nc_medfl.evaluation.tables import POOLED, as_table, evaluate_site, mean_over_sites
from nc_medfl.evaluation.thresholds import Rule, Thresholds, choose_thresholds
from nc_medfl.labels import Vocabulary
from nc_medfl.metrics.bootstrap import Kind

COUNTS = ("positives", "annotated", "unknown")


def evaluate_predictions(
    predictions: Predictions,
    *,
    run: str,
    model: str,
    rule: Rule = "youden",
    resamples: int = 2000,
    seed: int = 0,
    interval: Kind = "percentile",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> pd.DataFrame:
    """Rows of ``metrics.csv`` for each site's test rows, their mean over sites, and all patients pooled.

    Args:
        predictions: with ``test`` rows; thresholds are chosen on a site's ``val`` rows, and pooled on all of them.
        run: for the rows.
        model: for the rows.
        rule: of the thresholds.
        resamples: of the bootstrap; 0 gives no intervals.
        seed: of the bootstrap.
        interval: ``percentile`` or ``bca``.
        on_progress: called with (done, total) places.

    Raises:
        UserError: without a test row.
    """
    test = predictions.of(split="test")
    if not len(test):
        raise UserError(f"{run}: no row with split 'test' to measure on. Mark the rows to be measured as test.")
    validation = predictions.of(split="val")
    vocabulary = Vocabulary("predictions", predictions.findings)

    def rows_of(part: Predictions, val: Predictions, site: str) -> pd.DataFrame:
        chosen = choose_thresholds(val.scores, val.labels, rule=rule) if len(val) else _without_validation(part, rule)
        rows = evaluate_site(
            part.scores,
            part.labels,
            part.patient,
            thresholds=chosen,
            run=run,
            model=model,
            site=site,
            split="test",
            vocabulary=vocabulary,
            resamples=resamples,
            seed=seed,
            interval=interval,
        )
        return pd.concat([rows, count_rows(part, run=run, model=model, site=site)], ignore_index=True)

    own = []
    total = len(predictions.sites) + 1
    for done, site in enumerate(predictions.sites):
        on_progress(done, total)
        own.append(rows_of(test.of(site=site), validation.of(site=site), site))
    on_progress(total - 1, total)
    together = rows_of(test, validation, POOLED)
    on_progress(total, total)
    sites = pd.concat(own, ignore_index=True)
    return as_table(pd.concat([sites, mean_over_sites(sites), together], ignore_index=True))


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


def _without_validation(part: Predictions, rule: Rule) -> Thresholds:
    """A rule that needs no validation still gives its threshold."""
    if rule == "half":
        return choose_thresholds(part.scores, part.labels, rule=rule)
    return Thresholds.none(len(part.findings))
