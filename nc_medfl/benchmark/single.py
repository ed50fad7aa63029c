"""One run of a bench: a data set, a partition, a method, a seed; in this process."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nc_medfl import __version__
from nc_medfl.benchmark import pools, sites
from nc_medfl.benchmark.datasets import make_pool
from nc_medfl.benchmark.flare import flare_models
from nc_medfl.benchmark.identity import settings_of
from nc_medfl.benchmark.matrix import Matrix, RunKey, job_of, regime_of
from nc_medfl.benchmark.measuring import Row, Scored, mean_rows, measured_sizes, rows_of, score, short
from nc_medfl.benchmark.sites import DealtPool
from nc_medfl.config import JobSettings, OwnVocabulary, SiteConfig
from nc_medfl.data.store import Store, hash_of, write_atomic, write_json
from nc_medfl.federation.local import LocalFederation
from nc_medfl.labels import Vocabulary, load_vocabulary
from nc_medfl.networks import FedNCANet
from nc_medfl.training.model import build_network

#: Columns of ``results.csv``.
COLUMNS = ("dataset", "partition", "method", "seed", "round", "split", "site", "finding", "metric", "value")
RESULTS, CHOSEN, SKEW, RUN_JSON = "results.csv", "chosen.csv", "skew.csv", "run.json"
SCHEMA_VERSION = 1
_PACKAGES = ("torch", "monai", "nvflare", "numpy", "scikit-learn")

#: Called with rounds done and rounds in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prepared:
    """What the runs of one data set, partition and seed share."""

    pool: pools.Pool
    dealt: DealtPool
    vocabulary: OwnVocabulary


@lru_cache(maxsize=1)
def _pool(data: Any, seed: int, cache: Path) -> pools.Pool:
    return make_pool(data, seed, cache)


@lru_cache(maxsize=1)
def prepare(matrix_out: Path, name: str, data: Any, partition: Any, seed: int) -> Prepared:
    """Make the pool and deal it out; the last one is kept, for the methods of a seed follow each other."""
    pool = _pool(data, seed, matrix_out / "cache")
    vocabulary = OwnVocabulary(name=name, findings=pool.findings)
    dealt = sites.deal(pool, partition, seed, matrix_out / "cache", load_vocabulary(vocabulary))
    return Prepared(pool, dealt, vocabulary)


def run_single(
    matrix: Matrix,
    key: RunKey,
    out: Path,
    progress: Progress,
    more: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
    test: bool = True,
) -> None:
    """Make one run and write its folder; ``run.json`` comes last and says that it is whole.

    Args:
        matrix: the study.
        key: which run.
        out: of the study.
        progress: told of rounds.
        more: job settings on top, such as a search found.
        folder: of the run, below ``out``; None for its place in the matrix.
        test: False leaves the test split alone.
    """
    torch.set_num_threads(1)
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    given = settings_of(matrix, key, more, test=test)
    prepared = prepare(out, key.dataset, matrix.datasets[key.dataset], matrix.partitions[key.partition], key.seed)
    job = job_of(matrix, key.method, seed=key.seed, more=more)
    settings = job_for(job, prepared.pool.channels, prepared.vocabulary)
    folder = out / (folder or Path("runs") / key.folder)
    curve, chosen = _measured(matrix, key, settings, prepared, progress, folder / "flare.log", test=test)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"dataset": key.dataset, "partition": key.partition, "method": key.method, "seed": key.seed}
    _write_csv(folder / RESULTS, [{**about, **row} for row in curve], COLUMNS)
    _write_csv(folder / CHOSEN, [{**about, **row} for row in curve if row["round"] == chosen], COLUMNS)
    skew = [{**about, **row} for row in prepared.dealt.skew]
    _write_csv(folder / SKEW, skew, tuple(skew[0]))
    score_ = [
        r["value"]
        for r in curve
        if (r["round"], r["split"], r["finding"], r["metric"]) == (chosen, "val", "macro", "auc")
    ]
    write_json(
        folder / RUN_JSON,
        {
            "schema_version": SCHEMA_VERSION,
            **about,
            "settings": given,
            "settings_hash": hash_of(given),
            "data": prepared.pool.fingerprint,
            "chosen_round": chosen,
            "validation_auc": score_[0] if score_ else None,
            "n_parameters": sum(p.numel() for p in build_network(settings).parameters()),
            "skew": _skew_summary(prepared.dealt.skew),
            "versions": {"python": platform.python_version(), "nc_medfl": __version__, **_versions()},
            "start": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 1),
            "outcome": "finished",
        },
    )


def job_for(settings: JobSettings, channels: int, vocabulary: OwnVocabulary) -> JobSettings:
    """A job's settings with those that the data decides.

    Args:
        settings: of the job.
        channels: of the images.
        vocabulary: of their findings.
    """
    network = settings.network
    if channels == 3:
        network = network.model_copy(update={"in_channels": 3})
    return settings.model_copy(update={"vocabulary": vocabulary, "network": network})


def _measured(
    matrix: Matrix,
    key: RunKey,
    settings: JobSettings,
    prepared: Prepared,
    progress: Progress,
    log: Path,
    *,
    test: bool,
) -> tuple[list[Row], int]:
    """All rows of a run, and the round whose model is reported."""
    regime = regime_of(matrix, key.method)
    vocabulary = load_vocabulary(prepared.vocabulary)
    parts = []
    groups = _groups(regime, prepared, vocabulary)
    for number, stores in enumerate(groups):

        def tell(done: int, total: int, before: int = number) -> None:
            progress(before * total + done, len(groups) * total)

        parts.append(_federated(matrix, settings, prepared, stores, tell, log, test=test))
    rows = {
        number: mean_rows([part[number] for part in parts]) if len(parts) > 1 else parts[0][number]
        for number in parts[0]
    }
    chosen = _choose(rows, matrix.evaluation.choose)
    rows = {number: found if number in (chosen, settings.rounds) else short(found) for number, found in rows.items()}
    return [{"round": number, **row} for number, found in rows.items() for row in found], chosen


def _groups(regime: str, prepared: Prepared, vocabulary: Vocabulary) -> list[dict[str, Store]]:
    """The federations of a run: one of all sites, one of a single site that holds all, or one for each site."""
    dealt = prepared.dealt
    if regime == "local":
        return [{name: store} for name, store in dealt.sites.items()]
    if regime == "pooled":
        return [sites.pooled(dealt, prepared.pool, Path("pooled"), vocabulary)]
    return [dealt.sites]


def _federated(
    matrix: Matrix,
    settings: JobSettings,
    prepared: Prepared,
    stores: dict[str, Store],
    progress: Progress,
    log: Path,
    *,
    test: bool,
) -> dict[int, list[Row]]:
    """Rows of the global model after each round in which it is measured."""
    wanted = measured_rounds(settings.rounds, matrix.evaluation.every, matrix.evaluation.late)
    network = build_network(settings)
    found = {}
    rounds = (
        flare_models(settings, stores, wanted, progress, log)
        if matrix.engine == "flare" and len(stores) > 1
        else global_models(settings, stores, progress)
    )
    for number, models, losses in rounds:
        rows = [_loss_row(name, value) for name, value in losses.items()]
        if number in wanted:
            measured = []
            for model in models():
                network.load_state_dict(model)
                measured.append(_rows(network, prepared, settings, matrix, test=test))
            rows += mean_rows(measured) if len(measured) > 1 else measured[0]
        found[number] = rows
    return found


def global_models(
    settings: JobSettings, stores: Mapping[str, Store], progress: Progress
) -> Iterator[tuple[int, Callable[[], list[dict[str, Tensor]]], dict[str, float]]]:
    """Round, the model handed out after it (or one a site: see FedBN), and mean training losses, round by round."""
    configs = {
        name: SiteConfig(name=name, store=store.folder, device="auto", threads=1) for name, store in stores.items()
    }
    with tempfile.TemporaryDirectory(prefix="nc-medfl-bench-") as state:
        federation = LocalFederation(settings, configs, Path(state), stores)
        for done in federation.rounds(score=False):
            losses = [update.losses for update in done.updates.values()]
            means = {name: float(np.mean([one[name] for one in losses if name in one])) for name in _names(losses)}
            progress(done.number, settings.rounds)
            yield done.number, partial(federation.models, done.handed_out), means


def _names(losses: list[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for one in losses for name in one))


def measured_rounds(rounds: int, every: int, late: int) -> set[int]:
    """The rounds after which the global model is measured.

    Example:
        >>> sorted(measured_rounds(20, 10, 2))
        [10, 19, 20]
    """
    return {number for number in range(1, rounds + 1) if number % every == 0 or number > rounds - late}


def _rows(network: Any, prepared: Prepared, settings: JobSettings, matrix: Matrix, *, test: bool) -> list[Row]:
    size = measured_sizes(prepared.dealt, settings)

    def scored(store: Store) -> Scored:
        return score(network, store, settings.for_sites(), size, matrix.evaluation.batch_size)

    frame = network.frame.detach() if isinstance(network, FedNCANet) else None
    validation = scored(prepared.dealt.validation)
    tested = scored(prepared.dealt.test) if test else None
    return rows_of(validation, tested, settings, prepared.pool.findings, frame)


def _choose(rows: Mapping[int, list[Row]], rule: str) -> int:
    """The round with the highest macro AUC on validation, or the last that was measured."""
    scores = {
        number: row["value"]
        for number, found in rows.items()
        for row in found
        if (row["split"], row["finding"], row["metric"]) == ("val", "macro", "auc") and row["value"] is not None
    }
    if rule == "last" or not scores:
        return max(rows)
    return max(scores, key=lambda number: (scores[number], -number))


def _loss_row(name: str, value: float) -> Row:
    return {"split": "train", "site": "all", "finding": "all", "metric": name, "value": value}


def _skew_summary(rows: list[Row]) -> dict[str, Any]:
    def mean(column: str) -> float | None:
        told = [row[column] for row in rows if row[column] is not None]
        return float(np.mean(told)) if told else None

    sizes = [row["train"] for row in rows]
    return {
        "label_skew": mean("label_skew"),
        "total_variation": mean("total_variation"),
        "findings_a_site": mean("n_findings"),
        "train_images": int(sum(sizes)),
        "smallest": int(min(sizes)),
        "largest": int(max(sizes)),
    }


def _write_csv(path: Path, rows: list[Row], columns: tuple[str, ...]) -> None:
    table = pd.DataFrame(rows, columns=list(columns))
    write_atomic(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())


def _versions() -> dict[str, str]:
    out = {}
    for name in _PACKAGES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out
