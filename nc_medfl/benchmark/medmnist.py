"""Files of MedMNIST v2 as pools (Yang et al., Scientific Data 2023), with their published splits.

ChestMNIST has many labels an image and is a pool as it is. A file of one class an image, such as DermaMNIST, is one of
as many classes, or of composites. Files of any size (28 to 224 px) are read; none is downloaded, since the ``medmnist``
package, which does that, needs torchvision.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nc_medfl.benchmark.composites import ClassPictures
from nc_medfl.benchmark.matrix import MedMnistData
from nc_medfl.benchmark.pools import VERSION, Pool, make_composites
from nc_medfl.data.sources.medmnist import CHESTMNIST, SPLITS
from nc_medfl.data.store import hash_of
from nc_medfl.errors import UserError

#: Classes of DermaMNIST in the order of its numbers, as HAM10000 abbreviates them.
DERMAMNIST = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")

Pictures = npt.NDArray[np.uint8]


def medmnist_pool(data: MedMnistData, seed: int, origin: str) -> Pool:
    """The images of a file, or composites of them.

    Args:
        data: settings.
        seed: of composites; and of the choice, where fewer images are wanted than there are.
        origin: fingerprint of the file.

    Raises:
        UserError: if it is no file of MedMNIST, or composites are asked of one with many labels an image.
    """
    parts = {split: read_split(data.path, split) for split in SPLITS}
    images = np.concatenate([part[0] for part in parts.values()])
    labels = np.concatenate([part[1] for part in parts.values()])
    split = np.repeat(np.arange(3), [len(part[0]) for part in parts.values()])
    wanted = (data.train, data.val, data.test)
    if data.composite:
        return _composites(data, images, labels, split, wanted, seed, origin)
    table, names = _table(labels, data.path)
    rows = _chosen(split, wanted, seed)
    print_ = hash_of({"origin": origin, "counts": list(wanted), "seed": seed if any(wanted) else 0, "version": VERSION})
    patients = np.array([f"{SPLITS[split[row]]}-{row:07d}" for row in rows])
    return Pool(images[rows], table[rows], names, np.array(SPLITS)[split[rows]], patients, None, print_)


def read_split(path: Path, split: str) -> tuple[Pictures, npt.NDArray[np.int64]]:
    """Images ``[N, H, W]`` or ``[N, 3, H, W]`` of a split, and its labels ``[N, L]``.

    Raises:
        UserError: if the file holds no such arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = np.asarray(archive[f"{split}_images"]), np.asarray(archive[f"{split}_labels"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: no {split}_images and {split}_labels in it. Give an npz file of MedMNIST.") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3):
        raise UserError(f"{path}: {split}_images are no grey or colour pictures of 8 bits. Give a 2D file of MedMNIST.")
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.ndim != 2 or len(labels) != len(images) or labels.dtype.kind not in "iub":
        raise UserError(f"{path}: {split}_labels don't fit its images. Give an npz file of MedMNIST.")
    return images if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int64)


def _table(labels: npt.NDArray[np.int64], path: Path) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    if labels.shape[1] > 1:
        if not np.isin(labels, (0, 1)).all():
            raise UserError(f"{path}: labels other than 0 and 1. Give chestmnist.npz or a file of one class an image.")
        known = CHESTMNIST if labels.shape[1] == len(CHESTMNIST) else None
        return labels.astype(np.float32), known or tuple(f"class{k}" for k in range(labels.shape[1]))
    names = class_names(labels, path)
    return np.eye(len(names), dtype=np.float32)[labels[:, 0]], names


def class_names(labels: npt.NDArray[np.int64], path: Path) -> tuple[str, ...]:
    """Names of the classes of a file of one class an image."""
    count = int(labels.max()) + 1
    if path.name.startswith("dermamnist") and count == len(DERMAMNIST):
        return DERMAMNIST
    return tuple(f"class{number}" for number in range(count))


def _chosen(split: npt.NDArray[np.int64], wanted: tuple[int | None, ...], seed: int) -> npt.NDArray[np.int64]:
    parts = []
    for number, most in enumerate(wanted):
        rows = np.flatnonzero(split == number)
        if most is not None and most < len(rows):
            rows = np.sort(np.random.default_rng([seed, number, 29]).permutation(rows)[:most])
        parts.append(rows)
    return np.concatenate(parts)


def _composites(
    data: MedMnistData,
    images: Pictures,
    labels: npt.NDArray[np.int64],
    split: npt.NDArray[np.int64],
    wanted: tuple[int | None, int | None, int | None],
    seed: int,
    origin: str,
) -> Pool:
    if labels.shape[1] > 1:
        raise UserError(f"{data.path}: composites are made of pictures of one class each. Leave 'composite' out.")
    colour = images if images.ndim == 4 else np.repeat(images[:, None], 3, axis=1)
    source = ClassPictures(colour, labels[:, 0], class_names(labels, data.path), split)
    of_split = np.bincount(split, minlength=3).tolist()
    train, val, test = (whole if count is None else count for count, whole in zip(wanted, of_split, strict=True))
    return make_composites(source, split, (train, val, test), data.two, seed, origin)
