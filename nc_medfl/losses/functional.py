"""The terms of the loss as pure functions (METHOD section 4). A target that is NaN is unknown and takes no part.

Shapes throughout: B images, C classes, D feature channels; targets ``[B, C]`` hold 1, 0 or NaN. Every term
is a sum over pairs (image, class), divided by the number of images B, also where labels are unknown. Nothing
here reads a number back from the device.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nc_medfl.networks.etf import unit_vectors

Negatives = Literal["topk", "all", "random"]
Contrast = Literal["cross_entropy", "cosine"]

#: A feature below this length has no direction: the gradient of its cosine would blow up.
_SHORTEST = 1e-6


def masked_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy over the known pairs, summed over classes and averaged over images.

    Args:
        logits: ``[B, C]``.
        targets: ``[B, C]``, 1, 0, a probability between them, or NaN.

    Returns:
        A scalar, 0 where nothing is known.

    Raises:
        ValueError: if the shapes differ.
    """
    _same_shape("logits", logits, targets)
    logits = _full_precision(logits)
    known = ~torch.isnan(targets)
    # What is left out is replaced before the function, not only after: 0 * NaN would poison the gradient.
    wanted = torch.where(known, targets, torch.zeros_like(targets)).to(logits.dtype)
    usable = torch.where(known, logits, torch.zeros_like(logits))
    terms = F.binary_cross_entropy_with_logits(usable, wanted, reduction="none")
    return _mean_over_images(terms, known)


def choose_negatives(
    cross_logits: Tensor,
    targets: Tensor,
    *,
    negatives: Negatives = "topk",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The negatives that the rejection term looks at.

    K is the number of positives in the whole batch. ``topk`` takes the K negatives whose largest cross logit
    is largest over the whole batch (the earlier pair first where they tie), ``random`` any K, ``all`` all of
    them; without a positive in the batch none is chosen.

    Args:
        cross_logits: L, ``[B, C, C]``.
        targets: ``[B, C]``, 1, 0 or NaN.
        negatives: ``topk``, ``all`` or ``random``.
        generator: draws for ``random``; None draws from torch's global one.

    Returns:
        A mask ``[B, C]``.
    """
    negative = targets == 0
    k = (targets == 1).sum()
    if negatives == "all":
        return negative & (k > 0)
    if negatives == "topk":
        score = cross_logits.detach().amax(dim=-1)
    else:
        where = targets.device if generator is None else generator.device
        score = torch.rand(targets.shape, generator=generator, device=where).to(targets.device)
    score = torch.where(negative, score, torch.full_like(score, -torch.inf)).flatten()
    # K lives on the device, so torch.topk would have to wait for it: rank them all and compare.
    order = score.argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    return negative & (rank < k).view(targets.shape)


def rejection_loss(
    cross_logits: Tensor,
    targets: Tensor,
    *,
    margin: float = 0.3,
    negatives: Negatives = "topk",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Keep the feature of an absent class from looking like any class: REJ of METHOD section 4.

    Args:
        cross_logits: L, ``[B, C, C]``.
        targets: ``[B, C]``, 1, 0 or NaN.
        margin: probability up to which a resemblance costs nothing.
        negatives: see :func:`choose_negatives`.
        generator: draws for ``random``.

    Returns:
        A scalar, 0 in a batch without a positive.

    Raises:
        ValueError: if the shapes don't fit.
    """
    _cross_shape(cross_logits, targets)
    cross_logits = _full_precision(cross_logits)
    chosen = choose_negatives(cross_logits, targets, negatives=negatives, generator=generator)
    usable = torch.where(chosen[..., None], cross_logits, torch.zeros_like(cross_logits))
    hinge = (usable.amax(dim=-1).sigmoid() - margin).clamp_min(0)
    return _mean_over_images(hinge, chosen)


def contrastive_loss(
    class_features: Tensor,
    frame: Tensor,
    targets: Tensor,
    *,
    temperature: float = 0.07,
    contrast: Contrast = "cross_entropy",
) -> Tensor:
    """Pull the feature of a present class to its own vertex and off the others: PSC of METHOD section 4.

    Args:
        class_features: Z, ``[B, C, D]``. The cosine of one shorter than 1e-6 counts as 0, with a zero gradient.
        frame: M, ``[C, D]``.
        targets: ``[B, C]``, 1, 0 or NaN.
        temperature: tau, of the softmax over vertices.
        contrast: ``cross_entropy``, or ``cosine`` for the distance ``1 - cos`` to the own vertex alone.

    Returns:
        A scalar, 0 in a batch without a positive.

    Raises:
        ValueError: if the shapes don't fit.
    """
    if class_features.ndim != 3 or class_features.shape[:2] != targets.shape:
        raise ValueError(
            f"class features must be [B, C, D] beside targets {tuple(targets.shape)}, not {tuple(class_features.shape)}"
        )
    if frame.shape != class_features.shape[1:]:
        raise ValueError(f"the frame must be {tuple(class_features.shape[1:])}, not {tuple(frame.shape)}")
    class_features = _full_precision(class_features)
    positive = targets == 1
    usable = torch.where(positive[..., None], class_features, torch.zeros_like(class_features))
    lengths = torch.linalg.vector_norm(usable, dim=-1)
    long = lengths >= _SHORTEST
    # Dividing the cosines and not the features: those are D / C times as many.
    inverse = torch.where(long, 1 / torch.where(long, lengths, torch.ones_like(lengths)), torch.zeros_like(lengths))
    vertices = unit_vectors(frame.to(usable.dtype))
    if contrast == "cosine":
        return _mean_over_images(1 - torch.einsum("bcd,cd->bc", usable, vertices) * inverse, positive)
    scores = (F.linear(usable, vertices) * (inverse / temperature)[..., None]).log_softmax(dim=-1)
    return _mean_over_images(-scores.diagonal(dim1=1, dim2=2), positive)


def _mean_over_images(terms: Tensor, wanted: Tensor) -> Tensor:
    return torch.where(wanted, terms, torch.zeros_like(terms)).sum() / max(len(terms), 1)


def _full_precision(values: Tensor) -> Tensor:
    """At least float32: half precision, as autocast leaves it, is too coarse for sums and softmax."""
    return values if values.dtype == torch.float64 else values.float()


def _same_shape(name: str, values: Tensor, targets: Tensor) -> None:
    if values.ndim != 2 or values.shape != targets.shape:
        raise ValueError(f"{name} must be [B, C] as the targets {tuple(targets.shape)}, not {tuple(values.shape)}")


def _cross_shape(cross_logits: Tensor, targets: Tensor) -> None:
    if cross_logits.ndim != 3 or cross_logits.shape != (*targets.shape, targets.shape[-1]):
        raise ValueError(
            f"cross logits must be [B, C, C] beside targets {tuple(targets.shape)}, not {tuple(cross_logits.shape)}"
        )
