"""How unlike the training data an image is, as one measured number.

Each image is described by a few numbers: how well it agrees with the mean image of the training data, how alike its
two sides are, brightness, contrast, fine detail, and how far its features lie from those of the training images
(Mahalanobis distance in the network's own pooled features, after Lee et al., NeurIPS 2018, over their leading
principal components and the rest as one). The score is the Mahalanobis distance of these numbers from those of
training and validation images. The reference holds sums over many images, and no image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from nc_medfl.errors import UserError
from nc_medfl.inference.description import Reference

Floats = npt.NDArray[np.float64]

DESCRIPTORS = ("agreement", "symmetry", "brightness", "contrast", "detail", "features")
MEAN_IMAGE, FEATURE_MEAN, COMPONENTS, VARIANCES = "mean_image", "feature_mean", "components", "variances"
#: Share of the reference images whose score lies at or below the limit.
QUANTILE = 0.99

_THUMB = 32
_MOST_COMPONENTS = 32
_FEWEST = 40
_TINY = 1e-9

#: What to say of a descriptor that is far too low, and far too high.
_WORDS: Mapping[str, tuple[str, str]] = {
    "agreement": ("does not look like the mean training image", "too much like the mean training image"),
    "symmetry": ("its two sides differ more than a frontal chest's", "its two sides are too much alike"),
    "brightness": ("too dark", "too bright"),
    "contrast": ("too little contrast", "too much contrast"),
    "detail": ("too smooth", "too much fine detail"),
    "features": ("features nearer to the centre than any", "features far from those of training images"),
}
_INVERTED = "looks like the negative of a training image; check its polarity"


@dataclass(frozen=True)
class Likeness:
    """How unlike the training data one image is.

    Attributes:
        score: distance from the reference images; 0 is their centre.
        limit: a score above this is flagged.
        flagged: whether it is.
        reason: what stands out most, ``""`` where nothing is flagged.
    """

    score: float
    limit: float
    flagged: bool
    reason: str


def describe(squares: npt.NDArray[np.uint8], features: Tensor, tensors: Mapping[str, Tensor]) -> Floats:
    """The descriptors of some images.

    Args:
        squares: as prepared, uint8 ``[B, size, size]``.
        features: the network's pooled features of them, ``[B, D]``.
        tensors: of the reference.

    Returns:
        ``[B, 6]``, in the order of :data:`DESCRIPTORS`.
    """
    small = thumbnails(squares)
    mean_image = tensors[MEAN_IMAGE].to(torch.float64)
    detail = (small[:, :, 1:] - small[:, :, :-1]).abs().mean((1, 2)) + (small[:, 1:] - small[:, :-1]).abs().mean((1, 2))
    spread = small.std((1, 2), unbiased=False)
    columns = [
        _correlation(small, mean_image.expand_as(small)),
        _correlation(small, small.flip(2)),
        small.mean((1, 2)),
        spread,
        torch.log(detail / spread.clamp_min(_TINY) + _TINY),
        _feature_distance(features.to(torch.float64), tensors),
    ]
    result: Floats = torch.stack(columns, dim=1).numpy()
    return result


def thumbnails(squares: npt.NDArray[np.uint8]) -> Tensor:
    """Area averages, float64 ``[B, 32, 32]`` in [0, 1]."""
    image = torch.from_numpy(np.ascontiguousarray(squares))[:, None].to(torch.float64) / 255.0
    small: Tensor = F.interpolate(image, size=(_THUMB, _THUMB), mode="area")[:, 0]
    return small


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    result: Tensor = (a * b).sum(1) / lengths.clamp_min(_TINY)
    return result


def _feature_distance(features: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Logarithm of the Mahalanobis distance over the leading components, and over the rest as if it were round."""
    components, variances = tensors[COMPONENTS].to(torch.float64), tensors[VARIANCES].to(torch.float64)
    away = features - tensors[FEATURE_MEAN].to(torch.float64)
    along = away @ components.T
    rest = (away.square().sum(1) - along.square().sum(1)).clamp_min(0.0)
    squared = (along.square() / variances[:-1]).sum(1) + rest / variances[-1]
    return 0.5 * torch.log(squared + _TINY)


class ReferenceBuilder:
    """Gathers what a reference is made of; images are looked at twice, a batch at a time.

    First :meth:`fit` over training images, then :meth:`measure` over these and validation images: the validation
    patients alone are often too few to say how far apart images lie.
    """

    def __init__(self) -> None:
        self._n = 0
        self.tensors: dict[str, Tensor] = {}

    def fit(self, batches: Iterable[tuple[npt.NDArray[np.uint8], Tensor]]) -> None:
        """Mean image, mean feature and leading components of the features.

        Args:
            batches: squares uint8 ``[B, size, size]`` and pooled features ``[B, D]``.

        Raises:
            UserError: if there are too few images to hide one among them, or to say anything of them.
        """
        n, image, total, outer = 0, torch.zeros(_THUMB, _THUMB, dtype=torch.float64), None, None
        for squares, features in batches:
            given = features.to(torch.float64)
            image += thumbnails(squares).sum(0)
            total = given.sum(0) if total is None else total + given.sum(0)
            outer = given.T @ given if outer is None else outer + given.T @ given
            n += len(squares)
        if n < _FEWEST or total is None or outer is None:
            raise UserError(f"reference: {n} training images are too few. Give stores with {_FEWEST} or more.")
        self._n = n
        mean = total / n
        covariance = outer / n - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(covariance)
        kept = max(1, min(_MOST_COMPONENTS, len(values) - 1, n // 4))
        values = values.flip(0).clamp_min(0.0)
        rest = values[kept:].mean()
        floor = max(float(values[0]) * 1e-6, _TINY)
        variances = torch.cat([values[:kept], rest[None]]).clamp_min(floor)
        components = vectors.flip(1)[:, :kept].T
        self.tensors = {
            MEAN_IMAGE: (image / n).to(torch.float32),
            FEATURE_MEAN: mean.to(torch.float32),
            COMPONENTS: _signed(components).to(torch.float32).contiguous(),
            VARIANCES: variances.to(torch.float32),
        }

    def measure(self, batches: Iterable[tuple[npt.NDArray[np.uint8], Tensor]]) -> Reference:
        """Mean and covariance of the descriptors, and the limit.

        Args:
            batches: as for :meth:`fit`.

        Raises:
            UserError: if there are too few.
        """
        rows = [describe(squares, features, self.tensors) for squares, features in batches]
        table = np.concatenate(rows) if rows else np.empty((0, len(DESCRIPTORS)))
        if len(table) < _FEWEST:
            raise UserError(f"reference: {len(table)} images to measure on are too few. Give {_FEWEST} or more.")
        mean = table.mean(axis=0)
        covariance = np.cov(table, rowvar=False) + _TINY * np.eye(table.shape[1])
        scores = distances(table, mean, covariance)
        return Reference(
            descriptors=DESCRIPTORS,
            mean=tuple(map(float, mean)),
            covariance=tuple(tuple(map(float, row)) for row in covariance),
            limit=float(np.quantile(scores, QUANTILE)),
            quantile=QUANTILE,
            fitted_on=self._n,
            measured_on=len(table),
        )


def _signed(components: Tensor) -> Tensor:
    """Each component with its largest entry positive, so that the same images give the same numbers everywhere."""
    largest = components.abs().argmax(dim=1, keepdim=True)
    return components * torch.sign(components.gather(1, largest))


def distances(table: Floats, mean: Floats, covariance: Floats) -> Floats:
    """Mahalanobis distances of descriptors ``[B, K]``."""
    away = table - mean
    squared = np.einsum("bk,kj,bj->b", away, np.linalg.inv(covariance), away)
    result: Floats = np.sqrt(np.maximum(squared, 0.0))
    return result


def judge(table: Floats, reference: Reference) -> list[Likeness]:
    """Score some images by their descriptors ``[B, K]``."""
    mean, covariance = np.asarray(reference.mean), np.asarray(reference.covariance)
    scores = distances(table, mean, covariance)
    deviations = (table - mean) / np.sqrt(np.diagonal(covariance))
    return [
        Likeness(
            float(score),
            reference.limit,
            bool(score > reference.limit),
            _reason(row, z, reference.descriptors) if score > reference.limit else "",
        )
        for score, row, z in zip(scores, table, deviations, strict=True)
    ]


def _reason(row: Floats, z: Floats, names: tuple[str, ...]) -> str:
    if "agreement" in names and row[names.index("agreement")] < -0.2:
        return _INVERTED
    worst = int(np.argmax(np.abs(z)))
    words = _WORDS.get(names[worst], (f"{names[worst]} too low", f"{names[worst]} too high"))
    return words[int(z[worst] > 0)]
