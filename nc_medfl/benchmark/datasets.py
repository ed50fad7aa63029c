"""The data sets of a bench, by their kind."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from nc_medfl.benchmark.composites import fingerprint
from nc_medfl.benchmark.matrix import CompositeData, SitesData, StoreData
from nc_medfl.benchmark.pools import Pool, composite_pool, pool_of_stores
from nc_medfl.data.store import hash_of, open_store
from nc_medfl.errors import UserError


def make_pool(data: Any, seed: int, cache: Path) -> Pool:
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
    raise UserError(f"datasets: kind '{data.kind}' can't be read yet. Prepare it as a store (kind: store).")


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
    files = [path] if path.is_file() else sorted(path.rglob("manifest.parquet"))
    return hash_of({"files": [blake(file) for file in files]})


def blake(file: Path) -> str:
    """A hash of a file's content."""
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


def _sites_pool(path: Path) -> Pool:
    from nc_medfl.config import load_site_config
    from nc_medfl.federation.site import site_files

    files = site_files(path)
    if not files:
        raise UserError(f"{path}: no site in it. Give a folder of NAME/site.yaml, as 'nc-medfl partition' writes it.")
    return pool_of_stores(
        {name: open_store(load_site_config(file).store) for name, file in files.items()}, natural=True
    )
