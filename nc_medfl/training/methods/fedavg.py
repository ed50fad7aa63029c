"""FedAvg, the plain baseline: pooled features, a linear (or small MLP) head, binary cross entropy."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nc_medfl.config import JobSettings
from nc_medfl.losses.functional import masked_bce
from nc_medfl.training.methods.base import LossFunction, LossParts, Method


def _network_args(settings: JobSettings, num_classes: int) -> dict[str, Any]:
    network = settings.network
    return {
        "num_classes": num_classes,
        "backbone": network.backbone,
        "in_channels": network.in_channels,
        "head": network.head,
        "norm": network.norm,
        "init_weights": network.init_weights,
        "init_seed": settings.seed,
    }


def args_of_unit_head(head: str, settings: JobSettings, num_classes: int) -> dict[str, Any]:
    """The arguments with another head: one that compares unit features with a frame or with prototypes."""
    network = settings.network
    return {
        **_network_args(settings, num_classes),
        "head": head,
        "frame_seed": network.frame_seed,
        "init_scale": network.init_scale,
    }


def _build_loss(_network: nn.Module, _settings: JobSettings) -> LossFunction:
    def parts(output: Any, targets: Tensor) -> LossParts:
        bce = masked_bce(output.logits, targets)
        return bce, {"bce": bce}

    return parts


METHOD = Method(
    name="fedavg",
    title="FedAvg",
    network_class="nc_medfl.networks.pooled.PooledNet",
    network_args=_network_args,
    build_loss=_build_loss,
    has_class_features=False,
)
