"""Where a model looked: the attention of class queries, or Grad-CAM where there are none, and what it says without it.

Grad-CAM: Selvaraju et al., ICCV 2017, as MONAI has it. The deletion curve follows Petsiuk et al., BMVC 2018; tokens of
the feature map are left out here, not pixels, so that no made-up pixels enter the network.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nc_medfl.inference.model_file import Network
from nc_medfl.networks.class_attention import ClassQueryAttention
from nc_medfl.networks.fednca import FedNCANet

ATTENTION, GRAD_CAM = "attention", "grad_cam"


@dataclass(frozen=True)
class Maps:
    """Where a model looked in some images.

    Attributes:
        kind: ``attention`` (each map sums to one) or ``grad_cam`` (0 or more, of no fixed scale).
        values: float32 ``[B, maps, C, h, w]``; a map a head of attention, one of Grad-CAM.
    """

    kind: str
    values: npt.NDArray[np.float32]

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """The mean over heads, ``[B, C, h, w]``."""
        averaged: npt.NDArray[np.float32] = self.values.mean(axis=1)
        return averaged


def has_queries(network: Network) -> bool:
    """Whether a network looks with class queries."""
    return isinstance(network, FedNCANet) and isinstance(network.class_attention, ClassQueryAttention)


def look_at(network: Network, image: Tensor) -> Maps:
    """Where a network looked, for every finding.

    Args:
        network: in evaluation mode.
        image: as the network reads it, ``[B, channels, H, W]``.
    """
    if isinstance(network, FedNCANet) and has_queries(network):
        with torch.inference_mode():
            maps = network.attention_maps(network(image), (int(image.shape[2]), int(image.shape[3])))
        return Maps(ATTENTION, maps.float().numpy())
    return Maps(GRAD_CAM, _grad_cam(network, image))


class _Logits(nn.Module):
    """MONAI's Grad-CAM wants a module that gives a tensor."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image).logits
        return logits


def _grad_cam(network: Network, image: Tensor) -> npt.NDArray[np.float32]:
    from monai.visualize import GradCAM

    # MONAI puts a module back into the mode that it found it in, with all that is inside.
    cam: Any = GradCAM(nn_module=_Logits(network).eval(), target_layers="network.backbone")
    classes = int(network(image[:1]).logits.shape[1])
    try:
        with warnings.catch_warnings():
            # The image needs no gradient, as MONAI's hook is warned of; the feature map has one.
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            maps = [cam.compute_map(image, class_idx=c).detach() for c in range(classes)]
    finally:
        # MONAI leaves its hooks on the network.
        for module in network.modules():
            module._forward_hooks.clear()
            module._backward_hooks.clear()
        network.zero_grad(set_to_none=True)
    found: npt.NDArray[np.float32] = torch.stack([m[:, 0] for m in maps], dim=1)[:, None].float().numpy()
    return found


@torch.inference_mode()
def feature_map(network: Network, image: Tensor) -> Tensor:
    """What is looked at, ``[B, D, h, w]``."""
    features: Tensor = network.backbone(image)
    return network.projection(features) if isinstance(network, FedNCANet) else features


@torch.inference_mode()
def scores_without(network: Network, features: Tensor, keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Scores ``[B, C]`` where each finding may use some tokens only.

    Args:
        network: with class queries (other tokens get no attention), or pooling (they are left out of the mean).
        features: of :func:`feature_map`.
        keep: bool ``[B, C, h*w]``, one token or more each.
    """
    kept = torch.from_numpy(keep)
    if isinstance(network, FedNCANet) and isinstance(network.class_attention, ClassQueryAttention):
        read, _ = network.class_attention(features, kept)
        logits = network.classifier(read).diagonal(dim1=1, dim2=2)
    else:
        share = kept.to(features.dtype)
        pooled = (share / share.sum(dim=2, keepdim=True)) @ features.flatten(2).transpose(1, 2)  # [B, C, D]
        logits = _read_pooled(network, pooled)
    scores: npt.NDArray[np.float64] = torch.sigmoid(logits.double()).numpy()
    return scores


def _read_pooled(network: Network, pooled: Tensor) -> Tensor:
    """The logit of each class from a pooled feature of its own, ``[B, C, D]`` to ``[B, C]``."""
    if not isinstance(network, FedNCANet):
        every: Tensor = network.head(pooled)
        return every.diagonal(dim1=1, dim2=2)
    reader: Any = network.class_attention  # a small network a class
    hidden = torch.einsum("bcd,cdh->bch", pooled, reader.weight_in) + reader.bias_in
    read = torch.einsum("bch,chd->bcd", nn.functional.gelu(hidden), reader.weight_out) + reader.bias_out
    own: Tensor = network.classifier(read).diagonal(dim1=1, dim2=2)
    return own
