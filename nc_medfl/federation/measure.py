"""Final metrics: at a site, and over several sites' patients where one machine may hold them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nc_medfl.config import JobSettings, load_site_config
from nc_medfl.evaluation import predictions as table
from nc_medfl.evaluation.site import Predictions
from nc_medfl.evaluation.tables import evaluate_site, mean_over_sites
from nc_medfl.evaluation.thresholds import choose_thresholds
from nc_medfl.federation.site import site_files
from nc_medfl.labels import load_vocabulary
from nc_medfl.metrics.bootstrap import Kind
from nc_medfl.training.model import load_model

POOLED = "pooled"


def measure(
    validation: Predictions, test: Predictions, settings: JobSettings, site: str, interval: Kind = "percentile"
) -> pd.DataFrame:
    """Metrics on the test split, with thresholds chosen on the validation split.

    Args:
        validation: scores and labels to choose thresholds on.
        test: scores and labels to measure on.
        settings: the job's; they say how thresholds are chosen and how many resamples intervals take.
        site: for the rows.
        interval: ``percentile`` or ``bca``.

    Returns:
        Rows of ``metrics.csv`` for each finding, ``macro`` and ``micro``.
    """
    rule = settings.evaluation.threshold
    rows: pd.DataFrame = evaluate_site(
        test.scores,
        test.labels,
        test.patients,
        thresholds=choose_thresholds(validation.scores, validation.labels, rule=rule),
        run=settings.name,
        model=settings.method,
        site=site,
        split="test",
        vocabulary=load_vocabulary(settings.vocabulary),
        resamples=settings.evaluation.resamples,
        seed=settings.seed,
        interval=interval,
    )
    return rows


def pool(parts: Sequence[Predictions]) -> Predictions:
    """Put the patients of several sites together; equal numbers at two sites are two patients."""
    offsets = np.cumsum([0, *(int(p.patients.max(initial=-1)) + 1 for p in parts)])
    return Predictions(
        np.concatenate([p.scores for p in parts]),
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.patients + offset for p, offset in zip(parts, offsets[:-1], strict=True)]),
    )


def measure_everywhere(
    model: Path,
    sites: Path,
    *,
    own_rows: pd.DataFrame | None = None,
    resamples: int | None = None,
    seed: int | None = None,
    interval: Kind = "percentile",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> pd.DataFrame:
    """Rows for each site, for the mean over sites (``all``), and for all patients ``pooled``.

    Pooling needs the scores of every patient in one place, so this is for simulations; in the field each
    site's numbers come from the site.

    Args:
        model: a run's model file.
        sites: folder with the sites' settings.
        own_rows: the rows that the sites reported themselves; None measures them here.
        resamples: of the bootstrap; None takes the job's.
        seed: of the bootstrap; None takes the job's.
        interval: ``percentile`` or ``bca``.
        on_progress: called with (done, total) sites.

    Raises:
        UserError: for a bad model file, site folder or store.
    """
    from nc_medfl.federation.worker import SiteWorker

    network, settings, _ = load_model(model)
    files = site_files(sites)
    validation, test = {}, {}
    for done, (name, path) in enumerate(files.items()):
        on_progress(done, len(files))
        worker = SiteWorker(settings, load_site_config(path))
        worker.load(network.state_dict())
        validation[name], test[name] = worker.predictions("val"), worker.predictions("test")
    on_progress(len(files), len(files))
    evaluation = settings.evaluation
    if resamples is not None:
        evaluation = evaluation.model_copy(update={"resamples": resamples})
    chosen = {"evaluation": evaluation, "seed": settings.seed if seed is None else seed}
    settings = settings.model_copy(update=chosen)
    if own_rows is None:
        own_rows = pd.concat([measure(validation[n], test[n], settings, n, interval) for n in files], ignore_index=True)
    together = measure(pool(list(validation.values())), pool(list(test.values())), settings, POOLED, interval)
    rows: pd.DataFrame = pd.concat([with_mean(own_rows), together], ignore_index=True)
    return rows


def score_everywhere(
    model: Path, sites: Path, *, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> table.Predictions:
    """A model's predictions for every site's validation and test images, as one table.

    Args:
        model: a run's model file.
        sites: folder with the sites' settings.
        on_progress: called with (done, total) sites.

    Raises:
        UserError: for a bad model file, site folder or store.
    """
    from nc_medfl.federation.worker import SiteWorker

    network, settings, _ = load_model(model)
    files = site_files(sites)
    names = sorted(files)
    parts, ids, site, split = [], [], [], []
    for done, name in enumerate(names):
        on_progress(done, len(names))
        worker = SiteWorker(settings, load_site_config(files[name]))
        worker.load(network.state_dict())
        halves = {part: worker.predictions(part) for part in ("val", "test")}
        for part, found in halves.items():
            n = len(found.scores)
            ids += [f"{part}-{row}" for row in range(n)]
            site += [done] * n
            split += [part] * n
            parts.append(found)
    on_progress(len(names), len(names))
    pooled = pool(parts)
    return table.Predictions(
        sample_id=np.array(ids, dtype=object),
        patient=pooled.patients,
        site=np.array(site, dtype=np.int64),
        sites=tuple(names),
        split=np.array(split, dtype=object),
        scores=pooled.scores,
        labels=pooled.labels,
        findings=tuple(load_vocabulary(settings.vocabulary).findings),
    )


def with_mean(own_rows: pd.DataFrame) -> pd.DataFrame:
    """The sites' own rows, and their mean over sites (``all``)."""
    rows: pd.DataFrame = pd.concat([own_rows, mean_over_sites(own_rows)], ignore_index=True)
    return rows
