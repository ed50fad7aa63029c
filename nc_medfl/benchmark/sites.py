"""A pool dealt out to sites: stores in memory, and what skew came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.benchmark.matrix import PartitionSpec
from nc_medfl.benchmark.pools import Pool
from nc_medfl.data.arraystore import memory_store
from nc_medfl.data.manifest import LABEL, SPLITS
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError
from nc_medfl.labels import NO_FINDING, Vocabulary
from nc_medfl.partition import NaturalSettings, PartitionSettings, plan_natural, plan_partition, site_names
from nc_medfl.partition.describe import describe_manifests
from nc_medfl.partition.dirichlet import site_sizes
from nc_medfl.partition.missing_classes import draw_held

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DealtPool:
    """Sites, and what all of them are measured on.

    Attributes:
        sites: a store a site, by name.
        validation: the sites' own validation images together: chooses rounds and thresholds.
        test: the pool's whole test split, dealt out or not.
        skew: one row a site: images of each split, findings with a positive, distance of its labels from all others'.
    """

    sites: dict[str, Store]
    validation: Store
    test: Store
    skew: list[dict[str, Any]]


def deal(pool: Pool, spec: PartitionSpec, seed: int, folder: Path, vocabulary: Vocabulary) -> DealtPool:
    """Deal a pool out.

    Args:
        pool: images and labels.
        spec: how.
        seed: of every draw.
        folder: of the stores, if they are written at all.
        vocabulary: the pool's findings.

    Raises:
        UserError: if the pool is too small for the partition, or has no sites to leave as they are.
    """
    frame = _frame(pool)
    numbers, names = _sites(frame, pool, spec, seed)
    labels = _annotated(pool.labels, numbers, len(names), spec, seed)
    stores = {}
    for number, name in enumerate(names):
        rows = np.flatnonzero(numbers == number)
        stores[name] = _store(pool, frame, labels, rows, vocabulary, folder / name / "store", name)
    skew = _skew({name: store.manifest for name, store in stores.items()}, pool.findings)
    validation = np.flatnonzero((pool.split == "val") & (numbers >= 0))
    test = np.flatnonzero(pool.split == "test")
    return DealtPool(
        stores,
        _store(pool, frame, labels, validation, vocabulary, folder / "validation", ""),
        _store(pool, frame, pool.labels, test, vocabulary, folder / "test", ""),
        skew,
    )


def pooled(dealt: DealtPool, pool: Pool, folder: Path, vocabulary: Vocabulary) -> dict[str, Store]:
    """The sites' images in one place, as a federation of one site."""
    ids = np.concatenate([store.manifest["sample_id"].to_numpy(dtype=str) for store in dealt.sites.values()])
    parts = [store.labels() for store in dealt.sites.values()]
    rows = np.array([int(text.rpartition("-")[2]) for text in ids], dtype=np.int64)
    labels = pool.labels.copy()
    labels[rows] = np.concatenate(parts)
    return {"all": _store(pool, _frame(pool), labels, np.sort(rows), vocabulary, folder / "all" / "store", "all")}


def _frame(pool: Pool) -> pd.DataFrame:
    count = len(pool.split)
    frame = pd.DataFrame(
        {
            "sample_id": [f"image-{index:07d}" for index in range(count)],
            "patient_key": pool.patients,
            "split": pool.split,
            "shard": 0,
            "row": np.arange(count),
        }
    )
    whole: pd.DataFrame = pd.concat([frame, _label_columns(pool.labels, pool.findings)], axis=1)
    return whole


def _label_columns(labels: npt.NDArray[np.float32], findings: tuple[str, ...]) -> pd.DataFrame:
    columns = {f"{LABEL}{name}": labels[:, index] for index, name in enumerate(findings)}
    known = ~np.isnan(labels).any(axis=1)
    empty = np.where((labels == 1).any(axis=1), 0.0, np.where(known, 1.0, np.nan))
    table: pd.DataFrame = pd.DataFrame({**columns, f"{LABEL}{NO_FINDING}": empty.astype(np.float32)})
    return table


def _store(
    pool: Pool,
    frame: pd.DataFrame,
    labels: npt.NDArray[np.float32],
    rows: Ints,
    vocabulary: Vocabulary,
    folder: Path,
    site: str,
) -> Store:
    part = frame.iloc[rows].reset_index(drop=True)
    columns = _label_columns(labels[rows], pool.findings)
    part = part.assign(**{str(name): columns[name] for name in columns}, site=site)
    return memory_store(pool.images[rows], part, vocabulary, folder, settings_hash=pool.fingerprint)


def _sites(frame: pd.DataFrame, pool: Pool, spec: PartitionSpec, seed: int) -> tuple[Ints, list[str]]:
    """The number of each image's site, -1 where no site may hold it, and the sites' names."""
    if spec.by is not None:
        columns = pd.DataFrame(dict(pool.columns), index=frame.index)
        plan = plan_natural(frame.join(columns), pool.findings, NaturalSettings(spec.by, spec.min_images))
        return plan.site, list(plan.names)
    if spec.natural:
        return _natural(pool)
    return _dealt(frame, pool, spec, seed), site_names(spec.sites)


def _natural(pool: Pool) -> tuple[Ints, list[str]]:
    if pool.sites is None:
        raise UserError("partitions: 'natural' needs data of several sites (kind sites or synthetic). Name another.")
    names = sorted(set(pool.sites.tolist()))
    return np.searchsorted(names, pool.sites).astype(np.int64), names


def _dealt(frame: pd.DataFrame, pool: Pool, spec: PartitionSpec, seed: int) -> Ints:
    """Number of each image's site, -1 where no site may hold it."""
    if spec.alpha is None and spec.missing_classes == 0:
        return _at_random(frame, spec, seed)
    settings = PartitionSettings(
        sites=spec.sites,
        alpha=1e4 if spec.alpha is None else spec.alpha,
        missing_classes=spec.missing_classes,
        seed=seed,
        quantity_alpha=spec.quantity_alpha,
        min_images=spec.min_images,
    )
    return plan_partition(frame, pool.findings, settings).site


def _at_random(frame: pd.DataFrame, spec: PartitionSpec, seed: int) -> Ints:
    """Patients dealt out without a look at their labels, each split in the same shares."""
    rng = np.random.default_rng([seed, 13])
    numbers = pd.factorize(frame["patient_key"])[0]
    out = np.empty(len(frame), dtype=np.int64)
    shares = site_sizes(spec.sites, spec.quantity_alpha, rng)
    for split in SPLITS:
        rows = np.flatnonzero((frame["split"] == split).to_numpy())
        patients = rng.permutation(np.unique(numbers[rows]))
        # Every site gets its minimum before the shares are counted.
        least = min(spec.min_images if split == "train" else 1, len(patients) // spec.sites)
        sizes = least + np.floor(shares * (len(patients) - least * spec.sites)).astype(np.int64)
        sizes[: len(patients) - sizes.sum()] += 1
        site_of = dict(zip(patients.tolist(), np.repeat(np.arange(spec.sites), sizes).tolist(), strict=True))
        out[rows] = [site_of[number] for number in numbers[rows].tolist()]
    return out


def _annotated(
    labels: npt.NDArray[np.float32], numbers: Ints, sites: int, spec: PartitionSpec, seed: int
) -> npt.NDArray[np.float32]:
    """Labels with some findings unknown (or negative) at each site; every finding is known somewhere."""
    if not spec.unknown:
        return labels
    try:
        known = draw_held(labels.shape[1], sites, spec.unknown, np.random.default_rng([seed, 17]))
    except ValueError as error:
        raise UserError(f"partitions: unknown {spec.unknown}: {error}. Lower it, so that a site knows each.") from error
    out: npt.NDArray[np.float32] = labels.copy()
    placed = numbers >= 0
    hidden = np.zeros(labels.shape, dtype=np.bool_)
    hidden[placed] = ~known.T[numbers[placed]]
    out[hidden] = np.nan if spec.unknown_as == "unknown" else 0.0
    return out


def _skew(frames: dict[str, pd.DataFrame], findings: tuple[str, ...]) -> list[dict[str, Any]]:
    description = describe_manifests(frames, findings)
    train = description.counts[(description.counts["split"] == "train") & (description.counts["finding"] != NO_FINDING)]
    present = train[train["n_positive"] > 0].groupby("site").size()
    columns = ("site", "n_images", "train", "val", "test", "label_skew", "total_variation")
    rows = description.sites[list(columns)].to_dict("records")
    return [
        {str(key): None if value != value else value for key, value in row.items()}  # NaN is unlike itself
        | {"n_findings": int(present.get(row["site"], 0))}
        for row in rows
    ]
