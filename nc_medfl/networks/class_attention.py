"""Disentanglement: one feature per class, read from the feature map by cross attention (METHOD section 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nc_medfl.networks.etf import ArchitectureError
from nc_medfl.networks.query_attention import attend, compare


class ClassQueryAttention(nn.Module):
    """Let one query per class look over the feature map.

    Args:
        class_queries: one row a class, ``[C, D]``; copied, so it shares no storage with a frame.
        num_heads: attention heads; D must be a multiple of it.
        learned: train the queries. Otherwise they are a buffer that is neither trained nor saved nor sent.
        position_code: add a fixed two-dimensional sine-cosine code to the keys; D must be a multiple of 4.

    Attributes:
        attention: the standard torch module, without dropout; it holds the parameters, and :mod:`.query_attention` does
            its work.
        class_queries: a buffer, or a parameter where ``learned``, ``[C, D]``.

    Raises:
        ValueError: if D does not fit the heads or the position code (also a ``UserError``).
    """

    class_queries: Tensor

    def __init__(
        self, class_queries: Tensor, num_heads: int = 4, learned: bool = False, position_code: bool = False
    ) -> None:
        super().__init__()
        if class_queries.ndim != 2:
            raise ValueError(f"class queries must be [C, D], not {tuple(class_queries.shape)}")
        dim = class_queries.shape[1]
        if num_heads < 1 or dim % num_heads:
            raise ArchitectureError(
                f"feature_dim {dim} is no multiple of num_heads {num_heads}. Set feature_dim to "
                f"{math.ceil(dim / max(num_heads, 1)) * max(num_heads, 1)} or change num_heads."
            )
        if position_code and dim % 4:
            raise ArchitectureError(f"position_code needs a feature_dim that is a multiple of 4, not {dim}.")
        queries = class_queries.detach().clone()
        if learned:
            self.class_queries = nn.Parameter(queries)
        else:
            self.register_buffer("class_queries", queries, persistent=False)
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True, dtype=queries.dtype)
        self.position_code = position_code

    @property
    def class_axes(self) -> dict[str, int]:
        """Axis of the class in each parameter that belongs to classes."""
        return {"class_queries": 0} if isinstance(self.class_queries, nn.Parameter) else {}

    def forward(self, feature_map: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read a feature map.

        Args:
            feature_map: X, ``[B, D, H, W]``.
            keep: the tokens that each class may look at, bool ``[B, C, H*W]``, one or more each; None: all.

        Returns:
            Class features Z ``[B, C, D]``, and the attention weights ``[B, heads, C, H*W]``, each row of
            which sums to one: where the model looked.
        """
        queries = self.class_queries.to(feature_map.dtype)
        return attend(self.attention, queries, feature_map, self._code(feature_map), keep)

    def compare(self, feature_map: Tensor, rows: Tensor) -> Tensor:
        """``<Z[b, c], rows[c]>`` as ``[B, C]``, without working out the features Z; rows are ``[C, D]``."""
        queries = self.class_queries.to(feature_map.dtype)
        return compare(self.attention, queries, rows.to(feature_map.dtype), feature_map, self._code(feature_map))

    def _code(self, feature_map: Tensor) -> Tensor | None:
        _, dim, height, width = feature_map.shape
        return sine_cosine_code(height, width, dim, like=feature_map) if self.position_code else None


class ClassMLP(nn.Module):
    """The ablation of the attention: the pooled feature through a small network of each class's own.

    Args:
        num_classes: C.
        feature_dim: D.
        hidden_dim: width of each class's hidden layer.
    """

    def __init__(self, num_classes: int, feature_dim: int, hidden_dim: int = 64) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.randn(num_classes, feature_dim, hidden_dim) * feature_dim**-0.5)
        self.bias_in = nn.Parameter(torch.zeros(num_classes, hidden_dim))
        self.weight_out = nn.Parameter(torch.randn(num_classes, hidden_dim, feature_dim) * hidden_dim**-0.5)
        self.bias_out = nn.Parameter(torch.zeros(num_classes, feature_dim))

    @property
    def class_axes(self) -> dict[str, int]:
        """Axis of the class in each parameter that belongs to classes."""
        return {"weight_in": 0, "bias_in": 0, "weight_out": 0, "bias_out": 0}

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`ClassQueryAttention`; the attention is even, since the mean looks everywhere alike."""
        batch, _, height, width = feature_map.shape
        pooled = feature_map.mean(dim=(2, 3))
        hidden = torch.einsum("bd,cdh->bch", pooled, self.weight_in) + self.bias_in
        features = torch.einsum("bch,chd->bcd", nn.functional.gelu(hidden), self.weight_out) + self.bias_out
        tokens = height * width
        return features, features.new_full((batch, 1, features.shape[1], tokens), 1.0 / tokens)


def sine_cosine_code(height: int, width: int, dim: int, *, like: Tensor) -> Tensor:
    """Fixed code of every place of a map, half of the channels for its row and half for its column.

    Args:
        height: H.
        width: W.
        dim: D, a multiple of 4.
        like: a tensor whose device and dtype the code takes.

    Returns:
        ``[H*W, D]``, in the order of ``flatten(2)``: rows first.
    """
    quarter = dim // 4
    rate = 10000.0 ** (-torch.arange(quarter, device=like.device, dtype=torch.float32) / max(quarter, 1))
    rows = torch.arange(height, device=like.device, dtype=torch.float32)[:, None] * rate
    columns = torch.arange(width, device=like.device, dtype=torch.float32)[:, None] * rate
    by_row = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(height, width, 2 * quarter)
    by_column = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(height, width, 2 * quarter)
    return torch.cat([by_row, by_column], dim=2).reshape(height * width, dim).to(like.dtype)


def attention_maps(attention: Tensor, height: int, width: int) -> Tensor:
    """Lay attention weights ``[B, heads, C, H*W]`` out as maps ``[B, heads, C, H, W]``."""
    return attention.reshape(*attention.shape[:-1], height, width)
