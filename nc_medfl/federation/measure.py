"""Final metrics: at a site, and over several sites' patients where one machine may hold them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from nc_medfl.config import EvaluationSettings, JobSettings, load_site_config
from nc_medfl.evaluation import predictions as table
from nc_medfl.evaluation.decide import SiteScores
from nc_medfl.evaluation.groups import ATTRIBUTES
from nc_medfl.evaluation.measured import About, Measured, measure_site, measure_sites
from nc_medfl.evaluation.patients import Scored
from nc_medfl.evaluation.tables import mean_over_sites
from nc_medfl.federation.site import site_files
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import load_model


def about(settings: JobSettings) -> About:
    """What a test of a job's model is of."""
    vocabulary = load_vocabulary(settings.vocabulary)
    return About(settings.name, settings.method, vocabulary, settings.evaluation, settings.seed)


def measure(validation: Scored, test: Scored, settings: JobSettings, site: str) -> pd.DataFrame:
    """Metrics on the test split, with thresholds chosen on the validation split.

    Args:
        validation: scores and labels to choose thresholds on.
        test: scores and labels to measure on.
        settings: the job's; they say how thresholds are chosen and how many resamples intervals take.
        site: for the rows.

    Returns:
        Rows of ``metrics.csv`` for each finding, ``macro`` and ``micro``.
    """
    return measure_site(validation, test, about(settings), site)


def predict_everywhere(
    model: Path,
    sites: Path,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    only: str | None = None,
) -> tuple[dict[str, SiteScores], JobSettings]:
    """A model's scores at every site, and the settings that it was trained with.

    Args:
        model: a run's model file.
        sites: folder with the sites' settings.
        on_progress: called with (done, total) sites.
        only: score one site's images alone.

    Raises:
        UserError: for a bad model file, site folder or store.
    """
    from nc_medfl.federation.worker import SiteWorker

    network, settings, _ = load_model(model)
    files = {name: path for name, path in site_files(sites).items() if only in (None, name)}
    found: dict[str, SiteScores] = {}
    for done, (name, path) in enumerate(files.items()):
        on_progress(done, len(files))
        worker = SiteWorker(settings, load_site_config(path))
        worker.load(network.state_dict())
        manifest = worker.store.manifest.iloc[worker.store.positions("test")]
        attributes = {key: manifest[key].to_numpy(dtype=object) for key in ATTRIBUTES if key in manifest}
        found[name] = SiteScores(worker.predictions("val"), worker.predictions("test"), attributes)
    on_progress(len(files), len(files))
    return found, settings


def score_everywhere(
    model: Path, sites: Path, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> table.Predictions:
    """A model's predictions for every site's validation and test images, as one table.

    Args:
        model: a run's model file.
        sites: folder with the sites' settings.
        on_progress: called with (done, total) sites.

    Raises:
        UserError: for a bad model file, site folder or store.
    """
    found, settings = predict_everywhere(model, sites, on_progress)
    return table.from_sites(found, load_vocabulary(settings.vocabulary).findings)


def measure_everywhere(
    model: Path,
    sites: Path,
    *,
    own_rows: pd.DataFrame | None = None,
    evaluation: EvaluationSettings | None = None,
    seed: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Measured:
    """Rows for each site, for the mean over sites (``all``), for all patients ``pooled``, and for groups of them.

    Pooling needs the scores of every patient in one place, so this is for simulations; in the field each
    site's numbers come from the site.

    Args:
        model: a run's model file.
        sites: folder with the sites' settings.
        own_rows: the rows that the sites reported themselves; None measures them here.
        evaluation: how to measure; None takes the settings of the run.
        seed: of the bootstrap; None takes the run's.
        on_progress: called with (done, total) sites.

    Raises:
        UserError: for a bad model file, site folder or store.
    """
    found, settings = predict_everywhere(model, sites, on_progress)
    if evaluation is not None:
        settings = settings.model_copy(update={"evaluation": evaluation})
    if seed is not None:
        settings = settings.model_copy(update={"seed": seed})
    return measure_sites(found, about(settings), own_rows)


def with_mean(own_rows: pd.DataFrame) -> pd.DataFrame:
    """The sites' own rows, and their mean over sites (``all``)."""
    rows: pd.DataFrame = pd.concat([own_rows, mean_over_sites(own_rows)], ignore_index=True)
    return rows
