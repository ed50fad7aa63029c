"""Writing a partition: one folder a site with its store and its settings, and the tables that describe them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl import __version__
from nc_medfl.config import SiteConfig, save_site_config
from nc_medfl.data.store import Store, copy_rows, write_json, write_store
from nc_medfl.errors import UserError, writing
from nc_medfl.partition.describe import SiteDescription, describe_sites
from nc_medfl.partition.natural import NaturalSettings, plan_natural
from nc_medfl.partition.picture import draw_description
from nc_medfl.partition.plan import PartitionPlan, PartitionSettings, plan_partition
from nc_medfl.partition.tables import markdown_page

SCHEMA_VERSION = 1
INFO = "partition.json"
_MISSED = "the site that took their patient misses one of their findings"


@dataclass(frozen=True)
class Partition:
    """A partition on disk.

    Attributes:
        folder: where it lies.
        info: what ``partition.json`` says.
        description: of what each site holds.
    """

    folder: Path
    info: dict[str, Any]
    description: SiteDescription


def partition_store(
    pool: Store,
    settings: PartitionSettings | NaturalSettings,
    out: str | Path,
    progress: Callable[[int, int], None] | None = None,
) -> Partition:
    """Deal a pool out to sites and write them, whole or not at all.

    Below ``out``: ``<site>/store``, ``<site>/site.yaml``, ``partition.json`` (settings, counts), ``partition.csv``
    (labels by site, split and finding), ``cooccurrence.csv``, ``partition.png``, ``partition.md``. A previous
    partition there is replaced; the same pool and settings give the same bytes.

    Args:
        pool: the store to deal out; it is only read.
        settings: how to deal.
        out: folder to write.
        progress: called with (images copied, images to copy).

    Raises:
        UserError: if ``out`` holds something else or can't be written, or the pool doesn't allow it.
    """
    out = Path(out)
    _check_out(out, pool.folder)
    if isinstance(settings, NaturalSettings):
        plan = plan_natural(pool.manifest, pool.vocabulary.findings, settings)
    else:
        plan = plan_partition(pool.manifest, pool.vocabulary.findings, settings)
    with writing(out, "Give --out another place."):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            fresh = Path(scratch) / "new"
            info, description = _write(pool, plan, settings, fresh, progress)
            _put_in_place(fresh, out, Path(scratch) / "old")
    return Partition(out, info, description)


def _put_in_place(fresh: Path, out: Path, old: Path) -> None:
    if out.exists():
        out.rename(old)
    try:
        fresh.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise


def _check_out(out: Path, pool: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file. Give --out a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / INFO).is_file():
        raise UserError(f"{out}: not empty, and not an earlier partition. Give --out a new folder.")
    if pool.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{out}: the pool lies in it and would be replaced. Give --out another folder.")


def _write(
    pool: Store,
    plan: PartitionPlan,
    settings: PartitionSettings | NaturalSettings,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Any], SiteDescription]:
    stores = {}
    total, done = len(pool) - plan.dropped, 0
    for number, name in enumerate(plan.names):
        rows = np.flatnonzero(plan.site == number)
        stores[name] = _write_site(pool, rows, folder / name, name)
        done += len(rows)
        if progress:
            progress(done, total)
    description = describe_sites(stores)
    info = _info(pool, plan, settings, description)
    write_json(folder / INFO, info)
    for table, file in ((description.counts, "partition.csv"), (description.cooccurrence, "cooccurrence.csv")):
        table.to_csv(folder / file, index=False, lineterminator="\n", float_format="%.6g")
    title = f"{len(plan.names)} sites, {_words(settings)}"
    draw_description(description, folder / "partition.png", title=title)
    page = markdown_page(description, title[0].upper() + title[1:], _remarks(info))
    (folder / "partition.md").write_text(page, encoding="utf-8")
    return info, description


def _write_site(pool: Store, rows: np.ndarray[Any, np.dtype[np.int64]], folder: Path, name: str) -> Store:
    frame = copy_rows(pool, rows, folder / "store")
    frame["site"] = name
    store = write_store(
        folder / "store",
        frame,
        pool.vocabulary,
        size=pool.size,
        settings=pool.info["settings"],
        counts={"ok": len(rows)},
        settings_hash=pool.info["settings_hash"],
    )
    save_site_config(SiteConfig(name=name, store=Path("store")), folder / "site.yaml")
    return store


def _info(
    pool: Store, plan: PartitionPlan, settings: PartitionSettings | NaturalSettings, description: SiteDescription
) -> dict[str, Any]:
    findings = np.asarray(pool.vocabulary.findings)
    sites = {}
    for number, row in enumerate(description.sites.to_dict("records")):
        name = str(row.pop("site"))
        values = {str(key): None if pd.isna(value) else value for key, value in row.items()}
        sites[name] = {**values, "missing": findings[~plan.held[:, number]].tolist()}
    return {
        "schema_version": SCHEMA_VERSION,
        "package_version": __version__,
        "settings": asdict(settings),
        "draw": plan.draw,
        "dropped": plan.dropped,
        "pool": {
            "n_images": len(pool),
            "n_patients": int(pool.manifest["patient_key"].nunique()),
            "settings_hash": pool.info["settings_hash"],
            "vocabulary": pool.vocabulary.name,
            "vocabulary_fingerprint": pool.vocabulary.fingerprint,
        },
        "sites": sites,
    }


def _words(settings: PartitionSettings | NaturalSettings) -> str:
    if isinstance(settings, NaturalSettings):
        return f"one for each value of '{settings.column}'"
    words = [f"Dirichlet alpha {settings.alpha:g}"]
    if settings.missing_classes:
        words.append(f"{settings.missing_classes} findings missing at each")
    if settings.quantity_alpha is not None:
        words.append(f"sizes from Dirichlet alpha {settings.quantity_alpha:g}")
    return ", ".join([*words, f"seed {settings.seed}"])


def _remarks(info: dict[str, Any]) -> list[str]:
    pool = info["pool"]
    remarks = [
        f"Dealt out of {pool['n_images']:,} images of {pool['n_patients']:,} patients, every patient to one site."
    ]
    natural = "column" in info["settings"]
    if info["dropped"]:
        why = "their patient has no value in that column" if natural else _MISSED
        remarks.append(f"{info['dropped']:,} images were dropped: {why}.")
    missing = [f"- {name}: {', '.join(site['missing'])}" for name, site in info["sites"].items() if site["missing"]]
    if missing:
        how = "has no image of" if natural else "was drawn to miss"
        remarks.append(f"Findings that a site {how}:\n\n" + "\n".join(missing))
    return remarks
