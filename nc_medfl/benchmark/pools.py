"""Pools: the images and labels of a data set, split, before they are dealt out to sites."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.benchmark.composites import (
    SPLITS,
    ClassPictures,
    compose,
    fingerprint,
    read_class_pictures,
    split_pictures,
)
from nc_medfl.benchmark.matrix import CompositeData
from nc_medfl.data.store import Store, hash_of
from nc_medfl.errors import UserError
from nc_medfl.partition.natural import usable_columns

#: Pixels of every image are made the same way as long as this stands; a run of another number is run again.
VERSION = 1


@dataclass(frozen=True)
class Pool:
    """Images of all splits, with what is known of them.

    Attributes:
        images: uint8 ``[N, H, W]``, or ``[N, 3, H, W]`` in colour.
        labels: 1, 0 or NaN (unknown), float32 ``[N, C]``.
        findings: names of the classes, ``C`` of them.
        split: ``train``, ``val`` or ``test`` of each image, ``[N]``.
        patients: a text for each image's patient, ``[N]``.
        sites: the site that each image comes from, ``[N]``, or None where there is none.
        fingerprint: of what decides all of this.
        columns: of a store's manifest, by name, that sites can be made by.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.float32]
    findings: tuple[str, ...]
    split: npt.NDArray[np.str_]
    patients: npt.NDArray[np.str_]
    sites: npt.NDArray[np.str_] | None
    fingerprint: str
    columns: Mapping[str, npt.NDArray[np.object_]] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Of the images: 1 or 3."""
        return int(self.images.shape[1]) if self.images.ndim == 4 else 1


def composite_pool(data: CompositeData, seed: int, cache: Path) -> Pool:
    """Composites of a folder or zip of class folders.

    Which picture is in which split is the same for every seed; which are put together hangs on it.

    Args:
        data: settings.
        seed: of the draws.
        cache: folder for decoded pictures.
    """
    source, print_ = _decoded(data.path, data.size, cache)
    split = split_pictures(source, data.fractions, seed=0)
    return make_composites(
        source, split, (data.train, data.val, data.test), data.two, seed, f"{print_}/{data.fractions}"
    )


def make_composites(
    source: ClassPictures,
    split: npt.NDArray[np.int64],
    counts: tuple[int, int, int],
    two: float,
    seed: int,
    origin: str,
) -> Pool:
    """A pool of canvases from pictures of one class each; see :func:`nc_medfl.benchmark.composites.compose`."""
    parts = []
    for number, count in enumerate(counts):
        rows = np.flatnonzero(split == number)
        if len(np.unique(source.classes[rows])) < 2:
            raise UserError(f"datasets: pictures of fewer than two classes in {SPLITS[number]}. Give more pictures.")
        parts.append(compose(source, rows, count, two, np.random.default_rng([seed, number, 11])))
    names = np.repeat(SPLITS, counts)
    return Pool(
        np.concatenate([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
        source.names,
        names,
        np.array([f"canvas-{index:07d}" for index in range(len(names))]),
        None,
        hash_of({"origin": origin, "counts": list(counts), "two": two, "seed": seed, "version": VERSION}),
    )


def _decoded(path: Path, size: int, cache: Path) -> tuple[ClassPictures, str]:
    """The pictures, decoded once and kept as arrays that runs side by side map into memory."""
    print_ = fingerprint(path, size)
    folder = cache / f"pictures-{print_[:16]}"
    if not (folder / "rest.npz").is_file():
        source = read_class_pictures(path, size)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "pictures.npy", lambda stream: np.save(stream, source.pictures))
        rest: dict[str, Any] = {"classes": source.classes, "names": np.array(source.names), "given": source.given}
        write_whole(folder / "rest.npz", lambda stream: np.savez(stream, **rest))
    pictures = np.load(folder / "pictures.npy", mmap_mode="r", allow_pickle=False)
    with np.load(folder / "rest.npz", allow_pickle=False) as known:
        names = tuple(str(name) for name in known["names"])
        return ClassPictures(pictures, known["classes"], names, known["given"]), print_


def decoded_once(file: Path, decode: Callable[[], npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """An array that is slow to make, made once and kept in a file that runs side by side map into memory."""
    if not file.is_file():
        array = decode()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda stream: np.save(stream, array))
    kept: npt.NDArray[np.uint8] = np.load(file, mmap_mode="r", allow_pickle=False)
    return kept


def write_whole(path: Path, save: Callable[[Any], None]) -> None:
    """Write a file whole or not at all; runs side by side may do so at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with temporary.open("wb") as stream:
        save(stream)
    temporary.replace(path)


def pool_of_stores(stores: dict[str, Store], *, natural: bool) -> Pool:
    """The images of some stores together.

    Args:
        stores: by name of the site.
        natural: whether the names are sites; else they are forgotten.
    """
    first = next(iter(stores.values()))
    parts = []
    for name, store in stores.items():
        if store.vocabulary.findings != first.vocabulary.findings or store.shape != first.shape:
            raise UserError(
                f"{name}: prepared for other findings, or another size, than the other sites. Prepare again."
            )
        rows = np.arange(len(store))
        patients = np.array([f"{name}/{key}" for key in store.manifest["patient_key"]])
        split = store.manifest["split"].to_numpy(dtype=str)
        parts.append((store.images(rows), store.labels(), split, patients, np.full(len(rows), name)))
    images, labels, split, patients, sites = (np.concatenate(values) for values in zip(*parts, strict=True))
    prints = {name: store.info["settings_hash"] for name, store in stores.items()}
    content = hash_of({"stores": prints, "images": [len(images)], "version": VERSION})
    frames = pd.concat([store.manifest for store in stores.values()], ignore_index=True)
    columns = {name: frames[name].astype(object).to_numpy() for name in usable_columns(frames)}
    return Pool(
        images, labels, first.vocabulary.findings, split, patients, sites if natural else None, content, columns
    )
