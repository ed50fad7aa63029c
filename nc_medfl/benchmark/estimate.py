"""How long a matrix takes on this machine: measured steps times their number.

A step of training and an image's scoring are measured for each method and shape of image, on made-up pixels, by the
code that runs use. What is left out is small beside them: reading data, averaging, writing tables.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from nc_medfl.benchmark.datasets import Extent, extent_of
from nc_medfl.benchmark.matrix import Matrix, PartitionSpec, RunKey, job_of, regime_of
from nc_medfl.benchmark.measuring import score
from nc_medfl.benchmark.searching import trials
from nc_medfl.benchmark.single import job_for, measured_rounds
from nc_medfl.config import JobSettings, OwnVocabulary, SiteConfig
from nc_medfl.data.arraystore import memory_store
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError
from nc_medfl.federation.local import LocalFederation
from nc_medfl.federation.worker import network_size
from nc_medfl.labels import NO_FINDING, load_vocabulary
from nc_medfl.training.device import pick_device
from nc_medfl.training.model import build_network

#: Steps of the two rounds whose difference is measured, after one that warms up.
_FEW, _MORE = 1, 4


@dataclass(frozen=True)
class Cost:
    """Seconds on this machine.

    Attributes:
        step: of a batch in training.
        round: of a site's round beside its steps.
        image: of an image that is scored.
    """

    step: float
    round: float
    image: float


def estimate(
    matrix: Matrix, keys: list[RunKey], progress: Callable[[int, int], None] = lambda *_: None
) -> list[dict[str, Any]]:
    """A row a (dataset, partition, method): what a run and all its seeds cost, with the search where there is one.

    Args:
        matrix: the study.
        keys: the runs wanted.
        progress: told of measurements.

    Raises:
        UserError: if nothing is known of the size of a data set.
    """
    torch.set_num_threads(1)
    extents = {name: extent_of(matrix.datasets[name]) for name in dict.fromkeys(key.dataset for key in keys)}
    places = list(dict.fromkeys((key.dataset, key.method) for key in keys))
    costs: dict[tuple[str, str], Cost] = {}
    for done, (dataset, method) in enumerate(places):
        progress(done, len(places))
        costs[dataset, method] = measure_cost(job_of(matrix, method, seed=0), extents[dataset], matrix)
    progress(len(places), len(places))
    searched = _searched(matrix, keys)
    rows = []
    for dataset, partition, method in dict.fromkeys((key.dataset, key.partition, key.method) for key in keys):
        extent, cost = extents[dataset], costs[dataset, method]
        job = job_of(matrix, method, seed=0)
        seconds = run_seconds(matrix, method, matrix.partitions[partition], job, extent, cost)
        runs = sum((key.dataset, key.partition, key.method) == (dataset, partition, method) for key in keys)
        sought = searched.get((dataset, partition, method), [])
        in_search = [
            run_seconds(matrix, method, matrix.partitions[partition], one, extent, cost, test=False) for one in sought
        ]
        rows.append(
            {
                "dataset": dataset,
                "partition": partition,
                "method": method,
                "image": "x".join(map(str, extent.shape)),
                "train_images": extent.train,
                "step_seconds": round(cost.step, 4),
                "round_seconds": round(cost.round, 4),
                "image_seconds": round(cost.image, 6),
                "run_hours": round(seconds / 3600, 3),
                "runs": runs,
                "search_runs": len(sought),
                "hours": round((seconds * runs + sum(in_search)) / 3600, 3),
            }
        )
    return rows


def _searched(matrix: Matrix, keys: list[RunKey]) -> dict[tuple[str, str, str], list[JobSettings]]:
    """The jobs of the search by data set, partition and method."""
    out: dict[tuple[str, str, str], list[JobSettings]] = {}
    for trial in trials(matrix, keys) if matrix.search else []:
        job = job_of(matrix, trial.key.method, seed=0, more=trial.more)
        out.setdefault((trial.key.dataset, trial.key.partition, trial.key.method), []).append(job)
    return out


def run_seconds(
    matrix: Matrix,
    method: str,
    partition: PartitionSpec,
    job: JobSettings,
    extent: Extent,
    cost: Cost,
    *,
    test: bool = True,
) -> float:
    """What a run takes by the number of its steps and of the images that it scores.

    Args:
        matrix: of the study.
        method: by its name there.
        partition: how many sites share the images.
        job: of the run.
        extent: of the data.
        cost: of a step and an image, for a batch as the job has it.
        test: whether the test split is scored.
    """
    regime = regime_of(matrix, method)
    sites = 1 if regime == "pooled" else extent.sites or partition.sites
    steps = sites * math.ceil(extent.train / sites / job.training.batch_size) * job.training.local_epochs
    one_a_site = regime == "local" or job.method == "fedbn"
    measured = len(measured_rounds(job.rounds, matrix.evaluation.every, matrix.evaluation.late))
    scored = measured * (extent.val + (extent.test if test else 0)) * (sites if one_a_site else 1)
    return job.rounds * (steps * cost.step + sites * cost.round) + scored * cost.image


def measure_cost(job: JobSettings, extent: Extent, matrix: Matrix) -> Cost:
    """Measure a step, a round and an image of a job on made-up pixels."""
    with tempfile.TemporaryDirectory(prefix="nc-medfl-estimate-") as folder:
        findings = tuple(f"finding{number}" for number in range(extent.findings))
        vocabulary = OwnVocabulary(name="estimate", findings=findings)
        settings = job_for(job, extent.shape[0], vocabulary).for_sites()
        found = {}
        for steps in (_FEW, _MORE):
            store = _made_up(settings, extent, steps * settings.training.batch_size, vocabulary, Path(folder))
            found[steps] = _round_seconds(settings, store, Path(folder) / str(steps))
        step = max(found[_MORE] - found[_FEW], 0.0) / (_MORE - _FEW) / settings.training.local_epochs
        rest = max(found[_FEW] - _FEW * step * settings.training.local_epochs, 0.0)
        return Cost(step, rest, _image_seconds(settings, store, matrix.evaluation.batch_size))


def _round_seconds(settings: JobSettings, store: Store, folder: Path) -> float:
    """Of the second of two rounds: some methods do more once there was a first."""
    config = SiteConfig(name="estimate", store=store.folder, device="auto", threads=1)
    settings = settings.model_copy(update={"rounds": 2})
    federation = LocalFederation(settings, {"estimate": config}, folder, {"estimate": store})
    started = 0.0
    for done in federation.rounds(score=False):
        now = time.perf_counter()
        if done.number == 2:
            return now - started
        started = now
    raise AssertionError("a federation of two rounds has a second")


def _image_seconds(settings: JobSettings, store: Store, batch_size: int) -> float:
    network = build_network(settings).to(pick_device("auto"))
    size, found = network_size(settings, store), []
    for _ in range(2):
        started = time.perf_counter()
        score(network, store, settings, size, batch_size)
        found.append(time.perf_counter() - started)
    return min(found) / len(store)


def _made_up(settings: JobSettings, extent: Extent, count: int, vocabulary: OwnVocabulary, folder: Path) -> Store:
    """Images of noise, with labels of every finding but the first."""
    rng = np.random.default_rng(0)
    shape = extent.shape[1:] if extent.shape[0] == 1 else extent.shape
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    known = load_vocabulary(vocabulary)
    labels = (rng.random((count, len(known))) < 0.2).astype(np.float32)
    labels[:, 0] = 0
    frame = pd.DataFrame({f"label:{name}": labels[:, k] for k, name in enumerate(known.findings)})
    frame = frame.assign(**{f"label:{NO_FINDING}": (labels.max(axis=1) == 0).astype(np.float32), "split": "train"})
    names = [f"image-{number}" for number in range(count)]
    frame = frame.assign(sample_id=names, patient_key=names)
    return memory_store(images, frame, known, folder / "store", settings_hash=settings.name)


def device_name() -> str:
    """What it was measured on."""
    device = pick_device("auto")
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "one CPU thread"


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """The estimate as Markdown, with the sum."""
    if not rows:
        raise UserError("--estimate: no run to estimate.")
    names = ("dataset", "partition", "method", "image", "step_seconds", "run_hours", "runs", "search_runs", "hours")
    body = [[str(row[name]) for name in names] for row in rows]
    total = sum(row["hours"] for row in rows)
    runs = sum(row["runs"] + row["search_runs"] for row in rows)
    return [
        *(f"| {' | '.join(cells)} |" for cells in (list(names), ["---"] * len(names), *body)),
        f"{runs} runs, {total:.1f} hours one after the other on {device_name()}; with --jobs N up to N times less.",
    ]
