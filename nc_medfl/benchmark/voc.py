"""PASCAL VOC 2012 as a pool: which of 20 classes of things a photograph shows.

Its labels of the test images are not public, so its ``val`` list is the test split here, and a part of its ``train``
list, drawn once and for all, the validation split. What VOC marks as difficult is unknown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from nc_medfl.benchmark.matrix import VocData
from nc_medfl.benchmark.pools import VERSION, Pool, decoded_once
from nc_medfl.data.store import hash_of
from nc_medfl.errors import UserError

#: Share of the ``train`` list that is for validation.
_VALIDATION = 0.15
_LABEL = {"1": 1.0, "-1": 0.0, "0": np.nan}


def voc_pool(data: VocData, cache: Path) -> Pool:
    """The photographs of both lists, fitted into a square with black margins.

    Args:
        data: settings.
        cache: folder for decoded photographs.

    Raises:
        UserError: if lists or photographs are missing or unreadable.
    """
    lists = {name: read_list(data.path, name) for name in ("train", "val")}
    names = lists["train"][1]
    ids = [*lists["train"][0], *lists["val"][0]]
    labels = np.concatenate([lists["train"][2], lists["val"][2]])
    split = np.array(["train"] * len(lists["train"][0]) + ["test"] * len(lists["val"][0]))
    order = np.random.default_rng(0).permutation(len(lists["train"][0]))
    split[order[: round(_VALIDATION * len(order))]] = "val"
    print_ = hash_of({"kind": "voc", "ids": ids, "size": data.size, "version": VERSION})
    images = decoded_once(cache / f"voc-{print_[:16]}.npy", lambda: _photographs(data.path, ids, data.size))
    labels_print = hash_of({"pictures": print_, "labels": np.nan_to_num(labels, nan=2).astype(int).tolist()})
    return Pool(images, labels, names, split, np.array(ids), None, labels_print)


def read_list(path: Path, name: str) -> tuple[list[str], tuple[str, ...], npt.NDArray[np.float32]]:
    """Photographs of a list, the classes, and labels ``[N, C]``, NaN where VOC says difficult.

    Args:
        path: the folder ``VOC2012``.
        name: ``train`` or ``val``.

    Raises:
        UserError: if files are missing or don't agree.
    """
    files = sorted((path / "ImageSets" / "Main").glob(f"*_{name}.txt"))
    if len(files) < 2:
        raise UserError(
            f"{path}: no ImageSets/Main/CLASS_{name}.txt of two classes or more. Give the folder VOCdevkit/VOC2012."
        )
    columns: list[dict[str, float]] = []
    for file in files:
        rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if any(len(row) != 2 or row[1] not in _LABEL for row in rows):
            raise UserError(f"{file}: a line is not 'PHOTOGRAPH 1', '-1' or '0'. Unpack VOC 2012 again.")
        columns.append({row[0]: _LABEL[row[1]] for row in rows})
    ids = sorted(columns[0])
    if any(set(column) != set(ids) for column in columns):
        raise UserError(f"{path}: the lists *_{name}.txt name different photographs. Unpack VOC 2012 again.")
    labels = np.array([[column[one] for column in columns] for one in ids], dtype=np.float32)
    return ids, tuple(file.stem.rpartition("_")[0] for file in files), labels


def _photographs(path: Path, ids: list[str], size: int) -> npt.NDArray[np.uint8]:
    out = np.zeros((len(ids), 3, size, size), dtype=np.uint8)
    for row, name in enumerate(ids):
        file = path / "JPEGImages" / f"{name}.jpg"
        try:
            with Image.open(file) as opened:
                out[row] = fitted(opened.convert("RGB"), size)
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"{file}: missing or no readable picture. Unpack VOC 2012 again.") from error
    return out


def fitted(picture: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """A colour picture in a square with black margins, ``[3, size, size]``."""
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    way = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    planes = np.asarray(picture.resize((width, height), way), dtype=np.uint8).transpose(2, 0, 1)
    out = np.zeros((3, size, size), dtype=np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    out[:, top : top + height, left : left + width] = planes
    return out
