"""FedAvg with the focal loss in the place of binary cross entropy.

Source: Lin, Goyal, Girshick, He and Dollar, Focal Loss for Dense Object Detection, ICCV 2017 (arXiv 1708.02002),
equation 4, for each finding and image by itself, with gamma 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nc_medfl.config import JobSettings
from nc_medfl.training.methods import get_method

GAMMA = 2.0


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = GAMMA) -> Tensor:
    """Mean of ``-(1 - p)^gamma log p`` over the known labels, p being the probability of what is true.

    Args:
        logits: ``[B, C]``.
        targets: ``[B, C]``, 1, 0, or NaN where nobody knows.
        gamma: how little the easy ones count; 0 is binary cross entropy.

    Returns:
        A scalar; 0 where nothing is known.
    """
    known = ~torch.isnan(targets)
    cost = F.binary_cross_entropy_with_logits(logits[known], targets[known], reduction="none")
    return ((1 - torch.exp(-cost)) ** gamma * cost).sum() / max(int(known.sum()), 1)


def _build_loss(
    _network: nn.Module, _settings: JobSettings
) -> Callable[[Any, Tensor], tuple[Tensor, Mapping[str, Tensor]]]:
    def parts(output: Any, targets: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        focal = focal_loss(output.logits, targets)
        return focal, {"focal": focal}

    return parts


FEDFOCAL = dataclasses.replace(get_method("fedavg"), name="fedfocal", title="FedFocal", build_loss=_build_loss)
