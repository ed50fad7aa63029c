"""Cross attention of a few queries that are the same for every image, in the cheapest of its equal forms.

The function and the parameters are those of ``torch.nn.MultiheadAttention`` with packed input projections; what is
saved is work that the fixed queries make needless. Notation: T tokens an image, C queries, h heads of width D / h.

- Keys need no projection. ``<Wq q + bq, Wk x + bk>`` is ``<Wk' (Wq q + bq), x>`` and a term that does not depend on the
  token, which the softmax drops. So h x C folded vectors meet the tokens, in place of a D x D matrix.
- Values can be pooled before they are projected, since pooling is linear; their bias passes through, since the weights
  of a query sum to one.

Which of the forms is cheaper depends on C, h, T and D alone, and is decided by counting multiplications.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F


def attend(
    attention: nn.MultiheadAttention,
    queries: Tensor,
    feature_map: Tensor,
    code: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Let every query look over every image's feature map.

    Args:
        attention: holds the parameters: packed projections, biases, no dropout.
        queries: ``[C, D]``, the same for every image.
        feature_map: X, ``[B, D, H, W]``.
        code: added to the keys, ``[H*W, D]``.
        keep: the tokens that each query may look at, bool ``[B, C, H*W]``, one or more each; None: all.

    Returns:
        Features ``[B, C, D]`` and weights ``[B, heads, C, H*W]``, each row of which sums to one.
    """
    tokens = feature_map.flatten(2)
    weights = look(attention, queries, tokens, code, keep)
    return _out(attention, _heads(attention, weights, tokens)), weights


def compare(
    attention: nn.MultiheadAttention, queries: Tensor, rows: Tensor, feature_map: Tensor, code: Tensor | None = None
) -> Tensor:
    """The inner product of every query's feature with a row of its own, without the feature: all that predicting needs.

    Args:
        attention: holds the parameters.
        queries: ``[C, D]``.
        rows: ``[C, D]``.
        feature_map: X, ``[B, D, H, W]``.
        code: added to the keys, ``[H*W, D]``.

    Returns:
        ``[B, C]``.
    """
    tokens = feature_map.flatten(2)
    values, constant = fold_values(attention, rows)
    weights = look(attention, queries, tokens, code)
    told = _each_image(values.flatten(0, 1), tokens).view_as(weights)
    return (weights * told).sum(dim=(1, 3)) + constant


def look(
    attention: nn.MultiheadAttention,
    queries: Tensor,
    tokens: Tensor,
    code: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Where every query looks, with each head: torch's module tells the same by ``average_attn_weights=False``.

    Args:
        attention: holds the parameters.
        queries: ``[C, D]``.
        tokens: ``[B, D, T]``.
        code: added to the keys, ``[T, D]``.
        keep: the tokens that each query may look at, bool ``[B, C, T]``, one or more each; None: all.

    Returns:
        Weights ``[B, heads, C, T]``; 0 for a token that is not kept.
    """
    scores = _scores(attention, queries, tokens, code)
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None], -math.inf)
    return scores.softmax(dim=-1)


def _scores(attention: nn.MultiheadAttention, queries: Tensor, tokens: Tensor, code: Tensor | None) -> Tensor:
    """What the softmax of :func:`look` is of."""
    (number, dim), heads = queries.shape, attention.num_heads
    folded = fold_keys(attention, queries)
    if number * (heads - 1) <= dim:
        rows = folded.flatten(0, 1)
        scores = _each_image(rows, tokens)
        if code is not None:
            scores = scores + rows @ code.t()
        return scores.view(tokens.shape[0], heads, number, -1)
    weight, bias = _projection(attention, 1)
    keys = _each_image(weight, tokens) + bias[:, None]
    if code is not None:
        keys = keys + weight @ code.t()
    return _projected_queries(attention, queries) @ keys.view(tokens.shape[0], heads, dim // heads, -1)


def fold_keys(attention: nn.MultiheadAttention, queries: Tensor) -> Tensor:
    """What the tokens themselves are compared with, ``[heads, C, D]``."""
    weight, _ = _projection(attention, 1)
    return _projected_queries(attention, queries) @ weight.view(attention.num_heads, -1, weight.shape[1])


def fold_values(attention: nn.MultiheadAttention, rows: Tensor) -> tuple[Tensor, Tensor]:
    """What the tokens themselves give when a feature is only ever compared with one row.

    For the feature Z of a query, ``<Z, row>`` is the sum over heads of the weighted mean over tokens of ``<G, x>``,
    and a constant.

    Args:
        attention: holds the parameters.
        rows: what the feature of each query is compared with, ``[C, D]``.

    Returns:
        G ``[heads, C, D]`` and the constant ``[C]``.
    """
    weight, bias = _projection(attention, 2)
    back = rows @ attention.out_proj.weight
    heads = attention.num_heads
    by_head = back.view(len(rows), heads, -1).transpose(0, 1)
    return by_head @ weight.view(heads, -1, weight.shape[1]), back @ bias + rows @ attention.out_proj.bias


def _heads(attention: nn.MultiheadAttention, weights: Tensor, tokens: Tensor) -> Tensor:
    """The heads' features side by side, ``[B, C, D]``."""
    batch, heads, number, places = weights.shape
    weight, bias = _projection(attention, 2)
    dim = len(weight)
    if pools_first(number, heads, dim, places):
        pooled = weights.flatten(1, 2) @ tokens.transpose(1, 2)
        pooled = pooled.view(batch, heads, number, dim).permute(1, 0, 2, 3).reshape(heads, batch * number, dim)
        # One product a head over all images.
        parts = pooled @ weight.view(heads, dim // heads, dim).transpose(1, 2)
        features = parts.view(heads, batch, number, -1).permute(1, 2, 0, 3).reshape(batch, number, dim)
        return features + bias
    values = _each_image(weight, tokens).view(batch, heads, dim // heads, places)
    return (weights @ values.transpose(2, 3)).transpose(1, 2).reshape(batch, number, dim) + bias


def pools_first(number: int, heads: int, dim: int, places: int) -> bool:
    """Whether it is cheaper to pool the tokens and project what comes of it than to project the tokens and pool those.

    Args:
        number: queries C.
        heads: h.
        dim: D.
        places: tokens T of an image.
    """
    # The first takes T x h x C x D and C x D x D multiplications, the other T x D x D and T x C x D.
    return places * heads * number + number * dim <= places * (dim + number)


def _out(attention: nn.MultiheadAttention, features: Tensor) -> Tensor:
    return F.linear(features, attention.out_proj.weight, attention.out_proj.bias)


def _projection(attention: nn.MultiheadAttention, which: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of the queries' (0), keys' (1) or values' (2) projection."""
    dim = attention.embed_dim
    part = slice(which * dim, (which + 1) * dim)
    return attention.in_proj_weight[part], attention.in_proj_bias[part]


def _projected_queries(attention: nn.MultiheadAttention, queries: Tensor) -> Tensor:
    """``[heads, C, D / heads]``, divided by the root of the width."""
    weight, bias = _projection(attention, 0)
    heads = attention.num_heads
    projected = F.linear(queries, weight, bias) / math.sqrt(queries.shape[1] // heads)
    return projected.view(len(queries), heads, -1).transpose(0, 1)


def _each_image(rows: Tensor, tokens: Tensor) -> Tensor:
    """``rows @ tokens`` for every image: ``[N, D]`` and ``[B, D, T]`` give ``[B, N, T]``."""
    # One product over all images, both ways; a channels-last map is in this order already.
    return F.linear(tokens.transpose(1, 2), rows).transpose(1, 2)
