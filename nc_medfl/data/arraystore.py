"""A store whose images are in memory and on no disk: for pictures that are made up, and gone when their run is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.data import manifest as manifests
from nc_medfl.data.store import Store, describe_store, write_shard
from nc_medfl.labels import Vocabulary


def memory_store(
    images: npt.NDArray[np.uint8], frame: pd.DataFrame, vocabulary: Vocabulary, folder: Path, *, settings_hash: str
) -> Store:
    """A store over an array; training and evaluation read it as any other.

    Args:
        images: uint8, ``[N, H, W]``, or ``[N, 3, H, W]`` for colour pictures.
        frame: a manifest row an image, in the same order; ``shard`` and ``row`` are filled in.
        vocabulary: of its label columns.
        folder: what it would be called; nothing is written there.
        settings_hash: of what the images were made with.
    """
    frame = frame.assign(shard=0, row=np.arange(len(images)))
    info = {**_shape_of(images), "settings_hash": settings_hash}
    return Store(folder, manifests.normalise(frame, vocabulary.findings), vocabulary, info, {0: images})


def save_memory_store(store: Store) -> None:
    """Write a store of :func:`memory_store` to its folder, for :func:`nc_medfl.data.store.open_store`."""
    images = store.shard(0)
    write_shard(store.folder, 0, images)
    describe_store(
        store.folder,
        store.manifest,
        store.vocabulary,
        size=store.size,
        settings={},
        counts={"ok": len(images)},
        settings_hash=str(store.info["settings_hash"]),
        shape=_shape_of(images),
    )


def _shape_of(images: npt.NDArray[np.uint8]) -> dict[str, object]:
    height, width = images.shape[-2:]
    channels = images.shape[1] if images.ndim == 4 else 1
    return {"size": max(height, width), "shape": [height, width], "channels": channels}
