"""The synthetic hospitals of ``nc-medfl demo`` as a pool: drawn as DICOM and prepared once for each seed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nc_medfl.benchmark.matrix import SyntheticData
from nc_medfl.benchmark.pools import VERSION, Pool, pool_of_stores
from nc_medfl.data.store import Store, hash_of, open_store
from nc_medfl.data.synthetic import DEFAULT_HOSPITALS, Hospital

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


def synthetic_pool(data: SyntheticData, seed: int, cache: Path) -> Pool:
    """The hospitals' images, each hospital a site.

    Args:
        data: settings.
        seed: of everything drawn.
        cache: folder that keeps the stores; runs side by side wait for the one that draws.
    """
    own = {"sites": data.sites, "patients": data.patients, "size": data.size, "seed": seed, "version": VERSION}
    folder = cache / f"synthetic-{hash_of(own)[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache, prefix=".synthetic-") as scratch:
                _make(data, seed, Path(scratch))
                shutil.rmtree(Path(scratch) / "hospitals")
                (Path(scratch) / "stores").rename(folder)
    return pool_of_stores({place.name: open_store(place) for place in sorted(folder.iterdir())}, natural=True)


def hospitals_of(sites: int) -> tuple[Hospital, ...]:
    """So many hospitals: the demo's four, then more of their kinds."""
    kinds = len(DEFAULT_HOSPITALS)
    return tuple(
        hospital if number < kinds else replace(hospital, name=f"{hospital.name}_{number // kinds + 1}")
        for number in range(sites)
        for hospital in (DEFAULT_HOSPITALS[number % kinds],)
    )


def _make(data: SyntheticData, seed: int, folder: Path) -> dict[str, Store]:
    from nc_medfl.data.prepare import prepare
    from nc_medfl.data.settings import PrepareSettings
    from nc_medfl.data.synthetic import make_hospitals

    made = make_hospitals(
        folder / "hospitals",
        hospitals=hospitals_of(data.sites),
        patients_per_hospital=data.patients,
        seed=seed,
        workers=1,
    )
    stores = {}
    for place in made:
        # Nobody's secret: these patients don't exist, and a fixed salt gives the same bytes each time.
        salt = folder / f"{place.name}.salt"
        salt.write_bytes(f"synthetic {place.name} {seed:08d}".encode())
        out = folder / "stores" / place.name
        prepare(
            PrepareSettings(
                source="dicom",
                images=place.images,
                labels=place.labels,
                label_map=place.label_map,
                out=out,
                site=place.name,
                size=data.size,
                seed=seed,
                salt_file=salt,
                workers=1,
            )
        )
        stores[place.name] = open_store(out)
    return stores


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("a") as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
