"""FedNCA-ML: class queries on a shared simplex, a fixed classifier, and the two regularisers (METHOD 1-4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nc_medfl.config import JobSettings
from nc_medfl.losses import FedNCALoss
from nc_medfl.training.methods.base import LossFunction, LossParts, Method


def _network_args(settings: JobSettings, num_classes: int) -> dict[str, Any]:
    network = settings.network
    return {
        "num_classes": num_classes,
        "backbone": network.backbone,
        "in_channels": network.in_channels,
        "feature_dim": network.feature_dim,
        "norm": network.norm,
        "num_heads": network.num_heads,
        "queries": network.queries,
        "query_length": network.query_length,
        "position_code": network.position_code,
        "normalise_features": network.normalise_features,
        "frame_seed": network.frame_seed,
        "learned_frame": network.learned_frame,
        "init_scale": network.init_scale,
        "init_weights": network.init_weights,
        "init_seed": settings.seed,
    }


def _build_loss(network: nn.Module, settings: JobSettings) -> LossFunction:
    learned = dict(network.named_parameters()).get("classifier.frame")
    loss = FedNCALoss(
        network.get_buffer("classifier.frame") if learned is None else learned,
        lambda_rejection=settings.loss.lambda_rejection,
        lambda_contrast=settings.loss.lambda_contrast,
        margin=settings.loss.margin,
        temperature=settings.loss.temperature,
        negatives=settings.loss.negatives,
        contrast=settings.loss.contrast,
    )

    def parts(output: Any, targets: Tensor) -> LossParts:
        result = loss(output.cross_logits, output.class_features, targets, learned)
        return result.total, {"bce": result.bce, "rejection": result.rejection, "contrast": result.contrast}

    return parts


METHOD = Method(
    name="fednca",
    title="FedNCA-ML",
    network_class="nc_medfl.networks.fednca.FedNCANet",
    network_args=_network_args,
    build_loss=_build_loss,
    has_class_features=True,
)
