"""All that a model's scores at some sites tell: rows of ``metrics.csv``, and the tables beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nc_medfl.config import EvaluationSettings
from nc_medfl.evaluation.decide import (
    SiteScores,
    calibrate,
    chosen_thresholds,
    decision_tables,
    group_metrics,
    say_uncalibrated,
    with_pooled,
)
from nc_medfl.evaluation.groups import POOLED
from nc_medfl.evaluation.patients import Floats, Scored
from nc_medfl.evaluation.tables import MICRO, as_table, evaluate_site, mean_over_sites
from nc_medfl.labels import Vocabulary


@dataclass(frozen=True)
class Measured:
    """Everything that is known of a model's test.

    Attributes:
        rows: of ``metrics.csv``.
        tables: that stand beside it, by file name.
    """

    rows: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class About:
    """What a test is of.

    Attributes:
        run: for the rows, as is ``model``.
        model: which model.
        vocabulary: names of the findings.
        settings: how to measure.
        seed: of the bootstrap.
    """

    run: str
    model: str
    vocabulary: Vocabulary
    settings: EvaluationSettings
    seed: int = 0


def measure_site(validation: Scored, test: Scored, about: About, site: str) -> pd.DataFrame:
    """Metrics of one site's test split, with thresholds and calibration from its validation split.

    Args:
        validation: scores and labels to choose and to fit on.
        test: scores and labels to measure on.
        about: what it is a test of.
        site: for the rows.

    Returns:
        Rows of ``metrics.csv`` for each finding, ``macro`` and ``micro``.
    """
    known, found, _ = calibrate(validation, test, about.settings)
    rows = _rows(known, found, about, site)
    return say_uncalibrated(rows, {site: SiteScores(validation, test)}, about.vocabulary.findings, about.settings)


def _rows(validation: Scored, test: Scored, about: About, site: str) -> pd.DataFrame:
    table: pd.DataFrame = evaluate_site(
        test.scores,
        test.labels,
        test.patients,
        thresholds=chosen_thresholds(validation, about.settings),
        run=about.run,
        model=about.model,
        site=site,
        split="test",
        vocabulary=about.vocabulary,
        resamples=about.settings.resamples,
        seed=about.seed,
        interval=about.settings.interval,
    )
    return table


def count_rows(labels: Floats, about: About, site: str) -> pd.DataFrame:
    """Rows of metrics ``positives``, ``annotated`` and ``unknown`` (images without a label), a finding and in all.

    Args:
        labels: of the test split, ``[N, C]``.
        about: what it is a test of.
        site: for the rows.
    """
    known = ~np.isnan(labels)
    counts = {"positives": (labels == 1).sum(axis=0), "annotated": known.sum(axis=0), "unknown": (~known).sum(axis=0)}
    columns = [*range(labels.shape[1]), slice(None)]
    place = {"run": about.run, "model": about.model, "site": site, "split": "test", "group": "all", "reason": ""}
    rows = []
    for metric, values in counts.items():
        for name, column in zip((*about.vocabulary.findings, MICRO), columns, strict=True):
            positive, annotated = int(counts["positives"][column].sum()), int(counts["annotated"][column].sum())
            cell = {"finding": name, "metric": metric, "value": int(values[column].sum())}
            rows.append({**place, **cell, "n_positive": positive, "n_annotated": annotated})
    return as_table(rows)


def _groups(sites: Mapping[str, SiteScores], about: About, places: Collection[str]) -> pd.DataFrame:
    return group_metrics(
        sites, about.vocabulary, about.settings, run=about.run, model=about.model, seed=about.seed, places=places
    )


def measure_sites(
    sites: Mapping[str, SiteScores],
    about: About,
    own_rows: pd.DataFrame | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Measured:
    """Rows for each site, for the mean over sites (``all``), for all patients ``pooled``, and for groups of them.

    Pooling needs the scores of every patient in one place; in the field each site's numbers come from the site.

    Args:
        sites: scores by site.
        about: what it is a test of.
        own_rows: the rows that the sites reported themselves, with those of groups; None measures them here.
        on_progress: called with (done, total) steps: a site each, and one for all that follows.
    """
    if own_rows is None:
        parts = []
        for done, (name, found) in enumerate(sites.items()):
            on_progress(done, len(sites) + 1)
            parts.append(measure_site(found.validation, found.test, about, name))
        own_rows = pd.concat(parts, ignore_index=True)
    if (own_rows["group"] == "all").all():
        own_rows = pd.concat([own_rows, _groups(sites, about, sites)], ignore_index=True)
    on_progress(len(sites), len(sites) + 1)
    whole = [own_rows, mean_over_sites(own_rows)]
    together = with_pooled(sites, about.settings).get(POOLED)
    whole += [count_rows(found.test.labels, about, name) for name, found in sites.items()]
    if together is not None:
        pooled = _rows(together.validation, together.test, about, POOLED)
        whole.append(say_uncalibrated(pooled, sites, about.vocabulary.findings, about.settings))
        whole.append(count_rows(together.test.labels, about, POOLED))
        whole.append(_groups(sites, about, [POOLED]))
    rows: pd.DataFrame = pd.concat(whole, ignore_index=True)
    named = {"run": about.run, "model": about.model}
    tables = decision_tables(sites, rows, about.vocabulary, about.settings, seed=about.seed, **named)
    on_progress(len(sites) + 1, len(sites) + 1)
    return Measured(rows, tables)
