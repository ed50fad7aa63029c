"""Class attention and classifier as one operation, whose gradient is worked out by hand; for training on a CPU.

Value for value it is :func:`.query_attention.attend` followed by :class:`.etf.ETFClassifier`. What is saved is in the
way back. Let Z be the class features, ``[B*C, D]``, and M the frame, ``[C, D]``:

- What the cross logits ``Z M^T`` send back to Z has the rank of M, which is C. So it is kept as ``K`` ``[B*C, C]`` and
  goes through the output and the values' projection as ``K (M W)``, in place of ``(K M) W``.
- What else reaches Z directly comes from the contrast, which looks at present findings alone. Those rows are picked
  out, and the rest of the zeros isn't multiplied.

Together they take the place of four products of ``B*C x D x D``. Rows of queries lie as ``[C, heads]`` here, so that a
head is a strided matrix and nothing of the size of the pooled tokens is ever copied.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nc_medfl.networks.class_attention import ClassQueryAttention
from nc_medfl.networks.etf import ETFClassifier
from nc_medfl.networks.query_attention import pools_first


def read(reader: nn.Module, classifier: ETFClassifier, feature_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class features ``[B, C, D]``, where each class looked, and cross logits ``[B, C, C]``: the whole head.

    Args:
        reader: gives class features and attention of a feature map.
        classifier: compares them with the frame.
        feature_map: X, ``[B, D, H, W]``.
    """
    if isinstance(reader, ClassQueryAttention) and not (reader.position_code or classifier.normalise):
        parts = reader.attention, reader.class_queries, feature_map
        if can_join(*parts):
            return read_and_classify(*parts, classifier.frame, classifier.scale, classifier.bias)
    class_features, attention = reader(feature_map)
    return class_features, attention, classifier(class_features)


def can_join(attention: nn.MultiheadAttention, queries: Tensor, feature_map: Tensor) -> bool:
    """Whether :func:`read_and_classify` may be used, and pays.

    It knows neither ``torch.func`` nor a compiler nor autocast, and on a GPU picking rows would stall the queue.

    Args:
        attention: holds the parameters.
        queries: ``[C, D]``.
        feature_map: X, ``[B, D, H, W]``.
    """
    number, dim = queries.shape
    usable = (
        torch.is_grad_enabled()
        and feature_map.device.type == "cpu"
        and feature_map.dtype == queries.dtype == attention.in_proj_weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )
    places = feature_map.shape[2] * feature_map.shape[3]
    return usable and number < dim and pools_first(number, attention.num_heads, dim, places)


def read_and_classify(
    attention: nn.MultiheadAttention, queries: Tensor, feature_map: Tensor, frame: Tensor, scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Class features, where each class looked, and the cross logits.

    Args:
        attention: holds the parameters: packed projections, biases, no dropout.
        queries: ``[C, D]``.
        feature_map: X, ``[B, D, H, W]``.
        frame: M, ``[C, D]``.
        scale: of the logits, a scalar.
        bias: of the logits, ``[C]``.

    Returns:
        Features Z ``[B, C, D]``, weights ``[B, heads, C, H*W]`` and cross logits ``[B, C, C]``.
    """
    tokens = feature_map.flatten(2).transpose(1, 2).contiguous()
    out = attention.out_proj
    features, weights, cross = _ReadAndClassify.apply(  # type: ignore[no-untyped-call]
        tokens,
        queries,
        attention.in_proj_weight,
        attention.in_proj_bias,
        out.weight,
        out.bias,
        frame,
        scale,
        bias,
        attention.num_heads,
    )
    return features, weights.transpose(1, 2), cross


class _ReadAndClassify(torch.autograd.Function):
    """Forward and backward of :func:`read_and_classify`. Letters: B images, T tokens, C classes, h heads, e = D / h."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        queries: Tensor,
        in_weight: Tensor,
        in_bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        frame: Tensor,
        scale: Tensor,
        bias: Tensor,
        heads: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        (batch, places, dim), number = tokens.shape, len(queries)
        width = dim // heads
        wq, wk, wv = in_weight.chunk(3)
        bq, _, bv = in_bias.chunk(3)
        projected = torch.addmm(bq, queries, wq.t()).div_(math.sqrt(width))  # [C, D]
        by_head = projected.view(number, heads, width).transpose(0, 1)
        rows = torch.bmm(by_head, wk.view(heads, width, dim)).transpose(0, 1).reshape(number * heads, dim)
        looks = torch.bmm(rows.expand(batch, -1, -1), tokens.transpose(1, 2)).softmax(dim=-1)  # [B, C*h, T]
        pooled = torch.bmm(looks, tokens).view(batch * number, heads, dim)
        values = pooled.new_empty(batch * number, dim)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            torch.addmm(bv[part], pooled[:, head], wv[part].t(), out=values[:, part])
        features = torch.addmm(out_bias, values, out_weight.t())
        compared = features @ frame.t()
        ctx.heads = heads
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            tokens, queries, in_weight, out_weight, frame, scale, projected, rows, looks, pooled, values, compared
        )
        if ctx.needs_input_grad[6]:
            ctx.features = features.detach()
        cross = (compared * scale + bias).view(batch, number, number)
        return features.view(batch, number, dim), looks.view(batch, number, heads, places), cross

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_features: Tensor | None, of_weights: Tensor | None, of_cross: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        tokens, queries, in_weight, out_weight, frame, scale, projected, rows, looks, pooled, values, compared = (
            ctx.saved_tensors
        )
        (batch, places, dim), number, heads = tokens.shape, len(queries), ctx.heads
        width = dim // heads
        wq, wk, wv = in_weight.chunk(3)
        in_grad, in_bias_grad = torch.empty_like(in_weight), in_weight.new_zeros(3 * dim)

        told = compared.new_zeros(compared.shape) if of_cross is None else of_cross.reshape(compared.shape)
        through = told * scale  # K
        few, chosen = _nonzero_rows(of_features, batch * number, dim, like=compared)

        # The output's projection.
        seen = frame @ out_weight  # [C, D]
        few_out = few @ out_weight
        out_grad = frame.t() @ (through.t() @ values)
        out_grad.addmm_(few.t(), values[chosen])
        out_bias_grad = through.sum(dim=0) @ frame + few.sum(dim=0)

        # The values' projection.
        in_bias_grad[2 * dim :] = through.sum(dim=0) @ seen + few_out.sum(dim=0)
        folded = torch.bmm(
            seen.view(number, heads, width).transpose(0, 1), wv.view(heads, width, dim)
        )  # what each head's pooled tokens are compared with, [h, C, D]
        of_pooled = (through @ folded.transpose(0, 1).reshape(number, heads * dim)).view(-1, heads, dim)
        summed = (through.t() @ pooled.view(batch * number, heads * dim)).view(number, heads, dim)
        few_pooled = pooled[chosen]
        few_back = few_pooled.new_empty(few_pooled.shape)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            target = in_grad[2 * dim + head * width : 2 * dim + (head + 1) * width]
            torch.mm(seen[:, part].t(), summed[:, head], out=target)
            target.addmm_(few_out[:, part].t(), few_pooled[:, head])
            torch.mm(few_out[:, part], wv[part], out=few_back[:, head])
        of_pooled.index_add_(0, chosen, few_back)
        of_pooled = of_pooled.view(batch, number * heads, dim)

        # Pooling and softmax.
        of_looks = torch.bmm(of_pooled, tokens.transpose(1, 2))
        if of_weights is not None:
            of_looks += of_weights.reshape(of_looks.shape)
        of_scores = torch._softmax_backward_data(of_looks, looks, -1, looks.dtype)
        of_tokens = None
        if ctx.needs_input_grad[0]:
            of_tokens = torch.bmm(looks.transpose(1, 2), of_pooled)
            of_tokens.baddbmm_(of_scores.transpose(1, 2), rows.expand(batch, -1, -1))

        # The folded queries.
        flat = of_scores.transpose(1, 2).reshape(batch * places, number * heads)
        of_rows = (flat.t() @ tokens.view(batch * places, dim)).view(number, heads, dim).transpose(0, 1)
        by_head = projected.view(number, heads, width).transpose(0, 1)
        torch.bmm(by_head.transpose(1, 2), of_rows, out=in_grad[dim : 2 * dim].view(heads, width, dim))
        of_projected = torch.bmm(of_rows, wk.view(heads, width, dim).transpose(1, 2))
        of_projected = of_projected.transpose(0, 1).reshape(number, dim).div_(math.sqrt(width))
        torch.mm(of_projected.t(), queries, out=in_grad[:dim])
        in_bias_grad[:dim] = of_projected.sum(dim=0)

        wanted = ctx.needs_input_grad
        return (
            of_tokens,
            of_projected @ wq if wanted[1] else None,
            in_grad if wanted[2] else None,
            in_bias_grad if wanted[3] else None,
            out_grad if wanted[4] else None,
            out_bias_grad if wanted[5] else None,
            through.t() @ ctx.features if wanted[6] else None,
            (told * compared).sum() if wanted[7] else None,
            told.sum(dim=0) if wanted[8] else None,
            None,
        )


def _nonzero_rows(values: Tensor | None, number: int, dim: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of ``[..., dim]`` that hold anything, and their places; none where there are no values."""
    if values is None:
        return like.new_zeros(0, dim), torch.zeros(0, dtype=torch.long)
    flat = values.reshape(number, dim)
    chosen = (flat != 0).any(dim=1).nonzero().squeeze(1)
    return flat[chosen], chosen
