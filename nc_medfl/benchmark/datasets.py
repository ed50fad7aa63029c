"""The data sets of a bench, by their kind."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nc_medfl.benchmark.composites import SPLITS, class_names, fingerprint
from nc_medfl.benchmark.matrix import CompositeData, DataSet, MedMnistData, SitesData, StoreData, SyntheticData, VocData
from nc_medfl.benchmark.pools import Pool, composite_pool, pool_of_stores
from nc_medfl.data.store import MANIFEST, hash_of, open_store
from nc_medfl.errors import UserError


def make_pool(data: DataSet, seed: int, cache: Path) -> Pool:
    """The pool of a data set.

    Args:
        data: its settings.
        seed: of whatever is drawn.
        cache: folder for what is slow to make.

    Raises:
        UserError: if the data is missing or not what its kind says.
    """
    if isinstance(data, CompositeData):
        return composite_pool(data, seed, cache)
    if isinstance(data, StoreData):
        folder = data.path / "store" if (data.path / "store").is_dir() else data.path
        return pool_of_stores({"pool": open_store(folder)}, natural=False)
    if isinstance(data, SitesData):
        return _sites_pool(data.path)
    if isinstance(data, MedMnistData):
        from nc_medfl.benchmark.medmnist import medmnist_pool

        return medmnist_pool(data, seed, source_print(data))
    if isinstance(data, VocData):
        from nc_medfl.benchmark.voc import voc_pool

        return voc_pool(data, cache)
    if isinstance(data, SyntheticData):
        from nc_medfl.benchmark.drawn import synthetic_pool

        return synthetic_pool(data, seed, cache)
    raise UserError(f"datasets: no kind {type(data).__name__}. See docs/how-to/bench.md.")


@dataclass(frozen=True)
class Extent:
    """How much there is of a data set.

    Attributes:
        train: images; ``val`` and ``test`` likewise.
        findings: number of classes.
        shape: channels, height and width.
        sites: that it comes in, None for one pool.
    """

    train: int
    val: int
    test: int
    findings: int
    shape: tuple[int, int, int]
    sites: int | None = None


def extent_of(data: Any) -> Extent:
    """How much there is of a data set: as its settings or its files say, else as ``expected`` does.

    Raises:
        UserError: if neither is there.
    """
    if isinstance(data, CompositeData) and (data.path.exists() or data.expected):
        findings = data.expected.findings if data.expected else len(class_names(data.path))
        return Extent(data.train, data.val, data.test, findings, (3, data.size, 2 * data.size))
    if isinstance(data, SyntheticData) and data.expected is None:
        # Two films a patient on average; the splits as a preparation deals them.
        films = 2 * data.patients * data.sites
        train, val, test = (round(share * films) for share in (0.7, 0.1, 0.2))
        return Extent(train, val, test, 14, (1, data.size, data.size), data.sites)
    path = getattr(data, "path", None)
    if path is not None and path.exists():
        with tempfile.TemporaryDirectory(prefix="nc-medfl-extent-") as cache:
            return _extent_of_pool(make_pool(data, 0, Path(cache)))
    if data.expected is None:
        raise UserError(f"{path}: no such file or folder, and no 'expected' says what it holds. Give --data NAME=PATH.")
    return Extent(**data.expected.model_dump())


def _extent_of_pool(pool: Pool) -> Extent:
    train, val, test = (int((pool.split == split).sum()) for split in SPLITS)
    sites = None if pool.sites is None else len(np.unique(pool.sites))
    height, width = pool.images.shape[-2:]
    return Extent(train, val, test, len(pool.findings), (pool.channels, height, width), sites)


@lru_cache(maxsize=16)
def source_print(data: Any) -> str:
    """A fingerprint of what a data set is made from, without reading its images; a change means another study."""
    path = getattr(data, "path", None)
    if path is None:
        return ""
    if isinstance(data, CompositeData):
        return fingerprint(path, data.size)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder. Give the data set another 'path'.")
    if isinstance(data, VocData):
        return hash_of({"files": [blake(file) for file in sorted((path / "ImageSets" / "Main").glob("*_*.txt"))]})
    files = [path] if path.is_file() else sorted(path.rglob(MANIFEST))
    if isinstance(data, SitesData):
        # A hospital's store may lie anywhere; those below the folder are there already.
        stores = sorted(store.resolve() / MANIFEST for store in _stores_of(path).values())
        files += [file for file in stores if not file.is_relative_to(path.resolve()) and file.is_file()]
    return hash_of({"files": [blake(file) for file in files]})


def blake(file: Path) -> str:
    """A hash of a file's content."""
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


def _sites_pool(path: Path) -> Pool:
    return pool_of_stores({name: open_store(folder) for name, folder in _stores_of(path).items()}, natural=True)


def _stores_of(path: Path) -> dict[str, Path]:
    """The folders of some sites' stores, by name of the site."""
    from nc_medfl.config import load_site_config
    from nc_medfl.federation.site import site_files

    files = site_files(path)
    if not files:
        raise UserError(f"{path}: no site in it. Give a folder of NAME/site.yaml, as 'nc-medfl partition' writes it.")
    return {name: load_site_config(file).store for name, file in files.items()}
