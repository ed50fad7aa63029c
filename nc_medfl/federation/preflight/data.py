"""Checks of what a site brings: its settings, its store, its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nc_medfl.config import JobSettings, SiteConfig, load_site_config
from nc_medfl.data.manifest import SPLITS
from nc_medfl.data.store import Store, open_store
from nc_medfl.errors import UserError
from nc_medfl.federation.policy import check_job
from nc_medfl.federation.preflight.result import Result, failed, ok, warning
from nc_medfl.federation.site import open_site
from nc_medfl.labels import load_vocabulary


def check_config(path: Path, name: str | None) -> tuple[Result, SiteConfig | None]:
    """Whether ``site.yaml`` can be read and is this site's.

    Args:
        path: of the file.
        name: of the site in its startup kit, if there is one.
    """
    if not path.is_file():
        return failed("config", f"{path}: no such file.", "Write one with 'nc-medfl site init KIT'."), None
    try:
        config = load_site_config(path)
    except UserError as error:
        return failed("config", str(error), ""), None
    if name is not None and config.name != name:
        text = f"{path}: it describes site '{config.name}', but the kit is of '{name}'."
        return failed("config", text, "Mend 'name' there, or take the other kit."), None
    return ok("config", f"{config.name}, {path}"), config


def check_store(config: SiteConfig, job: JobSettings | None) -> tuple[Result, Store | None]:
    """Whether the store can be opened, has every image that its manifest names, and speaks of the job's findings."""
    try:
        store = open_site(config, load_vocabulary(job.vocabulary), job.image_size) if job else open_store(config.store)
        _every_shard_is_whole(store)
    except UserError as error:
        return failed("store", str(error), ""), None
    if not len(store):
        return failed("store", f"{store.folder}: no image in it.", "Prepare it again; quarantine.csv says why."), None
    text = f"{len(store)} images of {store.size} px, {store.vocabulary.name} ({len(store.vocabulary)} findings)"
    compared = "as the job's" if job else "not compared with a job's: give --job"
    return ok("store", f"{text}, {compared}"), store


def _every_shard_is_whole(store: Store) -> None:
    """Look at each shard's header and length, and read its last image.

    Raises:
        UserError: for the first that isn't as the manifest has it.
    """
    needed = store.manifest.groupby("shard")["row"].max()
    for number, last in needed.items():
        shard = store.shard(int(str(number)))
        shape = (store.size, store.size)
        if shard.dtype != np.uint8 or shard.ndim != 3 or shard.shape[1:] != shape or len(shard) <= int(last):
            raise UserError(
                f"{store.folder}: shard {int(str(number)):05d}.npy holds {list(shard.shape)} {shard.dtype}, but the "
                f"manifest needs {int(last) + 1} images of {store.size} px in it. Prepare again."
            )
        np.array(shard[int(last)])


def check_policy(config: SiteConfig, job: JobSettings, store: Store) -> Result:
    """Whether the site's own settings let it take part in a job; the same question that it asks when the job comes."""
    try:
        check_job(job.for_sites(), config, store)
    except UserError as error:
        return failed("policy", str(error), "")
    return ok("policy", f"the site takes part in {job.name} ({job.kind}, {job.method})")


def check_positives(store: Store, minimum: int) -> list[Result]:
    """Images with each finding in each split.

    Args:
        store: open.
        minimum: fewer positives than this are warned of: the site withholds their statistics, or there is nothing to
            measure.
    """
    labels = store.labels()
    return [_positives_of(split, store, labels[store.positions(split)], max(minimum, 1)) for split in SPLITS]


_CONSEQUENCES = {
    "train": "nothing is learnt here where there is none, and statistics under the minimum are withheld",
    "val": "where there is none, AUC is undefined and no threshold can be chosen",
    "test": "where there is none, the site's result is undefined",
}


def _positives_of(
    split: str, store: Store, labels: np.ndarray[tuple[int, ...], np.dtype[np.float32]], least: int
) -> Result:
    name = f"positives {split}"
    if len(labels) == 0:
        report = failed if split == "train" else warning
        return report(name, "no image in this split.", "Prepare with a share for it (--fractions).")
    counts = (labels == 1).sum(axis=0)
    named = list(zip(store.vocabulary.findings, counts.tolist(), strict=True))
    text = ", ".join(f"{finding} {count}" for finding, count in named) + f" (of {len(labels)} images)"
    few = [finding for finding, count in named if count < least]
    if not few:
        return ok(name, text)
    return warning(name, text + ".", f"Under {least}: {', '.join(few)}; {_CONSEQUENCES[split]}.")
