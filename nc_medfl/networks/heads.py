"""Heads over one pooled feature an image: learned ones, a fixed simplex, and class prototypes."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nc_medfl.networks.etf import simplex_etf, unit_vectors

HEADS = ("linear", "mlp", "simplex", "prototypes")


class LearnedHead(nn.Sequential):
    """A linear head, or (``mlp``) LayerNorm, a hidden layer of D and GELU before it."""

    def __init__(self, kind: str, dim: int, num_classes: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if kind == "mlp":
            layers["norm"] = nn.LayerNorm(dim)
            layers["hidden"] = nn.Linear(dim, dim)
            layers["act"] = nn.GELU()
        layers["output"] = nn.Linear(dim, num_classes)
        super().__init__(layers)

    @property
    def class_axes(self) -> dict[str, int]:
        """Axis of the class in each parameter that belongs to classes."""
        return {"output.weight": 0, "output.bias": 0}


class SimplexHead(nn.Module):
    """``scale * <unit(P f), M[c]> + bias[c]`` with a fixed frame M and a learned projection P of the pooled feature f.

    Args:
        frame: M, ``[C, D]``; neither trained nor saved nor sent.
        init_scale: where the learned scale starts.
    """

    frame: Tensor

    def __init__(self, frame: Tensor, init_scale: float) -> None:
        super().__init__()
        self.register_buffer("frame", frame, persistent=False)
        self.projection = nn.Linear(frame.shape[1], frame.shape[1])
        self.scale = nn.Parameter(torch.tensor(float(init_scale)))
        self.bias = nn.Parameter(torch.zeros(len(frame)))

    @property
    def class_axes(self) -> dict[str, int]:
        """Axis of the class in each parameter that belongs to classes."""
        return {"bias": 0}

    def forward(self, features: Tensor) -> Tensor:
        """Map pooled features ``[B, D]`` to logits ``[B, C]``."""
        return self.scale * F.linear(unit_vectors(self.projection(features)), self.frame) + self.bias


class PrototypeHead(nn.Module):
    """``scale * <unit(f), unit(W[c])> + bias[c]`` with prototypes W that no gradient moves.

    Args:
        prototypes: W at first, ``[C, D]``; a buffer that is saved and sent.
        init_scale: where the learned scale starts.
    """

    prototypes: Tensor

    def __init__(self, prototypes: Tensor, init_scale: float) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes)
        self.scale = nn.Parameter(torch.tensor(float(init_scale)))
        self.bias = nn.Parameter(torch.zeros(len(prototypes)))

    @property
    def class_axes(self) -> dict[str, int]:
        """Axis of the class in each tensor that belongs to classes."""
        return {"prototypes": 0, "bias": 0}

    def forward(self, features: Tensor) -> Tensor:
        """Map pooled features ``[B, D]`` to logits ``[B, C]``."""
        return self.scale * F.linear(unit_vectors(features), unit_vectors(self.prototypes)) + self.bias


def make_head(kind: str, dim: int, num_classes: int, frame_seed: int | None, init_scale: float) -> nn.Module:
    """A head of a kind in :data:`HEADS` over features of ``dim`` channels."""
    if kind == "simplex":
        return SimplexHead(simplex_etf(num_classes, dim, seed=frame_seed), init_scale)
    if kind == "prototypes":
        return PrototypeHead(simplex_etf(num_classes, dim, seed=frame_seed), init_scale)
    return LearnedHead(kind, dim, num_classes)
