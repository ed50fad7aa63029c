"""A site's tasks and answers, without FLARE: what is asked, and what goes back."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError
from nc_medfl.federation import keys
from nc_medfl.federation.class_statistics import SiteStatistics
from nc_medfl.federation.label_counts import site_counts
from nc_medfl.federation.policy import Refusal
from nc_medfl.federation.site_state import SiteState
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.training.methods import get_method, join_extras

TASKS = (keys.TASK_TRAIN, keys.TASK_VALIDATE, keys.TASK_EVALUATE, keys.TASK_LABELS)


@dataclass(frozen=True)
class Task:
    """Something for a site to do.

    Attributes:
        name: ``train``, ``validate``, ``evaluate`` or ``label_statistics``.
        params: the global model's parameters and buffers, if the task is about one.
        round_number: 0 for the first.
        run_id: of the federation.
    """

    name: str
    params: Mapping[str, Tensor]
    round_number: int
    run_id: str


@dataclass(frozen=True)
class Answer:
    """What goes back to the server.

    Attributes:
        params: trained parameters and buffers, or None where nothing was trained.
        meta: texts, numbers and numpy arrays.
    """

    params: dict[str, Tensor] | None
    meta: dict[str, Any] = field(default_factory=dict)


class TrainerDied(Exception):
    """A trainer process that ended without an answer; the text names nothing of the site."""


def make_worker(
    settings: JobSettings, config: SiteConfig, state_root: Path, run_id: str, store: Store | None = None
) -> SiteWorker:
    """A site's worker, with its state of this federation where the job keeps any; ``store`` if it is open already."""
    method = get_method(settings.method)
    training = settings.training
    keeps = training.keep_optimizer or training.precision == "auto" or method.has_memory or method.keeps_state
    state = SiteState(state_root, run_id) if keeps and settings.kind == "train" else None
    return SiteWorker(settings, config, state, run_id, store)


def do_task(worker: SiteWorker, task: Task) -> Answer:
    """Do a task with an open worker."""
    if task.name == keys.TASK_TRAIN:
        update = worker.train(task.params, round_number=task.round_number)
        meta: dict[str, Any] = {
            keys.FINGERPRINTS: dict(worker.fingerprints),
            keys.N_SAMPLES: update.n_samples,
            keys.LOSSES: json.dumps(update.losses),
            keys.ROWS: json.dumps(update.before.rows),
            keys.PRIVACY: worker.guard.report(),
            **_statistics_meta(update.before.statistics),
        }
        return Answer(join_extras(update.params, update.extras), meta)
    if task.name == keys.TASK_VALIDATE:
        check = worker.validate(task.params)
        meta = {
            keys.FINGERPRINTS: dict(worker.fingerprints),
            keys.ROWS: json.dumps(check.rows),
            keys.PRIVACY: worker.guard.report(),
        }
        return Answer(None, {**meta, **_statistics_meta(check.statistics)})
    if task.name == keys.TASK_LABELS:
        return Answer(None, {keys.ROWS: json.dumps(site_counts(worker.store, worker.config.privacy.min_positives))})
    tested = worker.test(task.params)
    if worker.state:
        worker.state.forget()
    histograms = {} if tested.histograms is None else {keys.HISTOGRAMS: tested.histograms}
    texts = {keys.ROWS: json.dumps(tested.rows), keys.TABLES: json.dumps(tested.tables)}
    return Answer(None, {**texts, **histograms})


def _statistics_meta(statistics: SiteStatistics) -> dict[str, Any]:
    meta: dict[str, Any] = {keys.COUNTS: statistics.counts}
    if statistics.feature_sums is not None:
        meta[keys.FEATURE_SUMS] = statistics.feature_sums
    return meta


def in_few_words(error: Exception) -> str:
    """Why a task failed, in words that may leave the site: no message of an error, which could name a path."""
    if isinstance(error, TrainerDied):
        return str(error)
    if isinstance(error, Refusal):
        return error.category
    if isinstance(error, UserError):
        return "something to mend at the site; see its log"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk full"
    return str(getattr(error, "kind", type(error).__name__))
