"""A model applied to one site's store: scores for the images of a split, at the site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Predictions:
    """Scores beside labels, for the images of one split of one site, in the order of its manifest.

    Attributes:
        scores: probabilities, ``[N, C]``.
        labels: 0, 1 or NaN (unknown), ``[N, C]``.
        patients: a number for each image that tells its patient from the others, ``[N]``.
    """

    scores: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]
    patients: npt.NDArray[np.int64]


@torch.inference_mode()
def predict(
    network: nn.Module, batches: Iterable[dict[str, Tensor]], patients: npt.NDArray[np.int64], num_classes: int
) -> Predictions:
    """Score every image of some batches.

    Args:
        network: on its device; it is put into evaluation mode. Its ``predictions`` gives logits ``[B, C]``.
        batches: in order, each with ``image`` ``[B, 1, H, W]`` and ``label`` ``[B, C]``.
        patients: of all images, in the same order.
        num_classes: findings; what an empty split has columns for.
    """
    network.eval()
    device = next(network.parameters()).device
    scores: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in batches:
        # Each of our networks has it; nn.Module tells mypy that any attribute may be a tensor.
        logits = network.predictions(batch["image"].to(device, non_blocking=True))  # type: ignore[operator]
        scores.append(torch.sigmoid(logits.double()).cpu())
        labels.append(batch["label"].double().cpu())
    if not scores:
        return Predictions(np.empty((0, num_classes)), np.empty((0, num_classes)), patients)
    return Predictions(torch.cat(scores).numpy(), torch.cat(labels).numpy(), patients)
