"""A store as batches.

:class:`StoreBatches` is what training and evaluation read: it maps the shards into memory and transforms whole
batches, which was faster than a ``DataLoader`` with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose
from torch import Tensor

from nc_medfl.data.store import Store
from nc_medfl.data.transforms import (
    AugmentationSettings,
    Normalisation,
    Shape,
    draw_table,
    eval_transform,
    train_transform,
)

Batch = dict[str, Tensor]


def epoch_batches(
    positions: npt.NDArray[np.int64], batch_size: int, *, shuffle: bool, seed: int, epoch: int
) -> list[npt.NDArray[np.int64]]:
    """Rows of each batch of an epoch.

    Args:
        positions: manifest rows of the split.
        batch_size: images a batch; the last is smaller where they don't divide.
        shuffle: in an order drawn from seed and epoch. A last batch of a single image is then added to the one
            before, for batch normalisation can't train on one image.
        seed: of the site.
        epoch: unique over rounds and epochs; each has an order of its own.

    Raises:
        ValueError: if the batch size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size} is below 1")
    if shuffle:
        positions = np.random.default_rng([seed, epoch, 0]).permutation(positions)
    starts = list(range(0, len(positions), batch_size))
    if shuffle and len(starts) > 1 and len(positions) - starts[-1] == 1:
        starts.pop()
    return np.split(positions, starts[1:]) if starts else []


class StoreBatches:
    """The batches of one epoch over one split, each with the keys ``image``, ``label`` and ``index``.

    ``image`` is ``[B, channels, H, W]``; ``label`` is ``[B, C]``, NaN where unknown; ``index`` ``[B]`` is the row
    of the manifest. It can be walked more than once, and gives the same each time.

    Args:
        store: open.
        split: ``train``, ``val`` or ``test``.
        batch_size: images a batch.
        transform: as :func:`nc_medfl.data.transforms.eval_transform` makes it.
        shuffle: whether in random order (training); see :func:`epoch_batches`.
        seed: of order and augmentation.
        epoch: unique over rounds and epochs.
        device: where the batch is transformed and given out. Images travel there as bytes.
        rows: rows of the manifest for each batch, in place of the split's.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        *,
        batch_size: int,
        transform: Compose,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        device: torch.device | str = "cpu",
        rows: Sequence[npt.NDArray[np.int64]] | None = None,
    ) -> None:
        self.store = store
        self.transform = transform
        self.device = torch.device(device)
        if rows is None:
            rows = epoch_batches(store.positions(split), batch_size, shuffle=shuffle, seed=seed, epoch=epoch)
        self._rows = list(rows)
        self._labels = torch.from_numpy(store.labels())
        self._draws = draw_table(len(store), seed, epoch)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        """Batches in order."""
        for rows in self._rows:
            index = torch.from_numpy(rows)
            image = self._send(torch.from_numpy(self.store.images(rows)))
            data = {"image": image, "draws": self._send(self._draws[index])}
            transformed = self.transform(data)["image"]
            yield {"image": transformed, "label": self._send(self._labels[index]), "index": index}

    def _send(self, values: Tensor) -> Tensor:
        """Values on the device. A GPU fetches them from pinned memory by itself, while the next batch is read."""
        if self.device.type == "cpu":
            return values
        pinned = values.pin_memory() if self.device.type == "cuda" else values
        return pinned.to(self.device, non_blocking=True)


def make_loader(
    store: Store,
    split: str,
    *,
    batch_size: int,
    training: bool,
    size: Shape | None = None,
    normalisation: str | Normalisation = "unit",
    channels: int = 1,
    augmentation: AugmentationSettings | None = None,
    seed: int = 0,
    epoch: int = 0,
    device: torch.device | str = "cpu",
    rows: Sequence[npt.NDArray[np.int64]] | None = None,
) -> StoreBatches:
    """Batches of a split for training (shuffled, augmented) or evaluation (in order, as they are).

    Args:
        store: open.
        split: ``train``, ``val`` or ``test``.
        batch_size: images a batch.
        training: shuffle, and augment where ``augmentation`` is given.
        size: side in pixels the network reads, or height and width; None for the stored one.
        normalisation: ``unit``, ``imagenet``, or numbers of one's own.
        channels: 1, or 3: equal ones, or those of a colour picture.
        augmentation: bounds of the random changes; None for none.
        seed: of order and augmentation.
        epoch: unique over rounds and epochs.
        device: where batches are transformed and given out.
        rows: rows of the manifest for each batch, in place of the split's.

    Raises:
        UserError: if there is no normalisation by that name.
    """
    size = size or store.shape
    if isinstance(normalisation, str):
        normalisation = Normalisation.named(normalisation, channels)
    if training and augmentation is not None:
        transform = train_transform(store.shape, size, normalisation, channels, augmentation, seed)
    else:
        transform = eval_transform(store.shape, size, normalisation, channels)
    return StoreBatches(
        store,
        split,
        batch_size=batch_size,
        transform=transform,
        shuffle=training,
        seed=seed,
        epoch=epoch,
        device=device,
        rows=rows,
    )
