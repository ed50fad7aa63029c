"""A model applied to one site's store: scores for the images of a split, at the site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nc_medfl.evaluation.patients import ScoredSplit


class Predictor(Protocol):
    """What a network is to :func:`predict`."""

    def eval(self) -> object:
        """Put it into evaluation mode."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its parameters, one at least."""

    def predictions(self, image: Tensor, /) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, 1, H, W]``."""


@torch.inference_mode()
def predict(
    network: Predictor, batches: Iterable[dict[str, Tensor]], patients: npt.NDArray[np.int64], num_classes: int
) -> ScoredSplit:
    """Score every image of some batches.

    Args:
        network: on its device; it is put into evaluation mode.
        batches: in order, each with ``image`` ``[B, 1, H, W]`` and ``label`` ``[B, C]``.
        patients: of all images, in the same order.
        num_classes: findings; what an empty split has columns for.
    """
    network.eval()
    device = next(network.parameters()).device
    scores: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in batches:
        logits = network.predictions(batch["image"].to(device, non_blocking=True))
        scores.append(torch.sigmoid(logits.double()).cpu())
        labels.append(batch["label"].double().cpu())
    if not scores:
        return ScoredSplit(np.empty((0, num_classes)), np.empty((0, num_classes)), patients)
    return ScoredSplit(torch.cat(scores).numpy(), torch.cat(labels).numpy(), patients)
