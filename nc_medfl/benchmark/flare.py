"""A bench's federation in FLARE's simulator: the sites' stores on disk, and the global model of each round read back.

Training code, seeds and updates are those of :class:`nc_medfl.federation.local.LocalFederation`. What is FLARE's own is
the server that checks updates: it refuses what doesn't fit (docs/reference/updates.md), where the other engine
trusts all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nc_medfl.benchmark.plot_data import COLLAPSE
from nc_medfl.config import JobSettings, SiteConfig, save_site_config
from nc_medfl.data.arraystore import save_memory_store
from nc_medfl.data.store import Store
from nc_medfl.errors import RunFailed
from nc_medfl.federation import keys
from nc_medfl.federation.environments import Federation, Simulator


def flare_models(
    settings: JobSettings,
    stores: Mapping[str, Store],
    wanted: set[int],
    progress: Callable[[int, int], None],
    log: Path,
) -> Iterator[tuple[int, Callable[[], list[dict[str, Tensor]]], dict[str, float]]]:
    """Round, what gives the model that is handed out after it, and the mean training losses, round by round.

    Args:
        settings: of the job.
        stores: of the sites, in memory; they are written to a folder that is gone afterwards.
        wanted: rounds whose models can be asked for.
        progress: told of rounds.
        log: where FLARE's log stays if the federation fails.

    Raises:
        RunFailed: if the federation failed.
    """
    # What a model is worth is measured here, on images that no site has.
    unmeasured = settings.evaluation.model_copy(update={"resamples": 0, "groups": ()})
    job = settings.model_copy(update={"evaluation": unmeasured, "name": "bench"})
    with tempfile.TemporaryDirectory(prefix="nc-medfl-bench-") as scratch:
        folder = Path(scratch)
        for name, store in stores.items():
            _write_site(folder / "sites" / name, name, store)
        federation = Federation(job, folder / "flare", sites=tuple(sorted(stores)), sites_folder=folder / "sites")

        def tell(event: dict[str, Any]) -> None:
            if event["event"] == "round":
                progress(event["round"], settings.rounds)

        with _keeping(wanted), log_kept(folder / "flare" / "flare.log", log):
            results = Simulator().run(federation, tell)
        losses = _losses(results / keys.ROUNDS_CSV)
        for number in range(1, settings.rounds + 1):
            file = results / keys.ROUND_MODEL.format(number)
            yield number, partial(_weights, file), losses.get(number, {})


def _write_site(folder: Path, name: str, store: Store) -> None:
    folder.mkdir(parents=True)
    save_memory_store(Store(folder / "store", store.manifest, store.vocabulary, store.info, {0: store.shard(0)}))
    save_site_config(SiteConfig(name=name, store=Path("store"), threads=1), folder / "site.yaml")


def _weights(path: Path) -> list[dict[str, Tensor]]:
    """The one model of a round."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return [content["state_dict"]]


def _losses(path: Path) -> dict[int, dict[str, float]]:
    """Means over sites by round and name."""
    rows = pd.read_csv(path)
    rows = rows[(rows["split"] == "train") & (rows["finding"] == "all") & ~rows["metric"].isin(COLLAPSE)]
    means = rows.groupby(["round", "metric"], sort=False)["value"].mean()
    out: dict[int, dict[str, float]] = {}
    for (number, name), value in means.items():
        out.setdefault(int(number), {})[str(name)] = float(value)
    return out


@contextmanager
def log_kept(made: Path, kept: Path) -> Iterator[None]:
    """If a federation fails, its log outlives the folder that it worked in."""
    kept.unlink(missing_ok=True)
    try:
        yield
    except RunFailed as error:
        if not made.is_file():
            raise
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, kept)
        raise RunFailed(str(error).replace(str(made), str(kept))) from error


@contextmanager
def _keeping(rounds: set[int]) -> Iterator[None]:
    """Servers started meanwhile keep the models of these rounds."""
    os.environ[keys.ENV_KEEP_MODELS] = ",".join(map(str, sorted(rounds)))
    try:
        yield
    finally:
        del os.environ[keys.ENV_KEEP_MODELS]
