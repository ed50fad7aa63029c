"""Scores, features and attention of prepared images, and what is said of each: the core of a prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nc_medfl.errors import UserError
from nc_medfl.inference.description import ModelDescription, OperatingPoint
from nc_medfl.inference.likeness import Likeness, describe, judge
from nc_medfl.inference.model_file import Network, PortableModel
from nc_medfl.inference.pixels import to_input

Floats = npt.NDArray[np.float64]

POOLED = "pooled"
NO_POINT = "the model file has no thresholds for this site"
_EDGE = 1e-12


@dataclass(frozen=True)
class FindingAnswer:
    """What the model says of one finding in one image.

    Attributes:
        finding: its name.
        score: the network's own, in [0, 1].
        probability: the score after calibration.
        threshold: on the scale of probabilities; None where none could be chosen.
        positive: whether the probability reaches it; None where there is no threshold.
        reason: why there is none.
    """

    finding: str
    score: float
    probability: float
    threshold: float | None
    positive: bool | None
    reason: str


@dataclass(frozen=True)
class Answer:
    """What the model says of one image; ``likeness`` is None where the model file has no reference."""

    findings: tuple[FindingAnswer, ...]
    likeness: Likeness | None


@torch.inference_mode()
def run_network(network: Network, image: Tensor) -> tuple[Floats, Tensor]:
    """Scores ``[B, C]`` in [0, 1] and pooled backbone features ``[B, D]`` of preprocessed images."""
    kept: list[Tensor] = []
    hook = network.backbone.register_forward_hook(lambda _module, _given, out: kept.append(out.mean(dim=(2, 3))))
    try:
        logits = network(image).logits
    finally:
        hook.remove()
    scores: Floats = torch.sigmoid(logits.double()).numpy()
    return scores, kept[0]


def answer(model: PortableModel, squares: npt.NDArray[np.uint8], site: str | None = None) -> list[Answer]:
    """Say what the model says of some images.

    Args:
        model: as read.
        squares: prepared as the model's training images were, uint8 ``[B, size, size]``.
        site: whose thresholds and calibration; None for those of all patients pooled.

    Raises:
        UserError: if the model knows no such site.
    """
    description = model.description
    point = operating_point(description, site)
    scores, features = run_network(model.network, to_input(squares, description))
    likenesses: list[Likeness | None] = [None] * len(squares)
    if description.reference is not None:
        likenesses = list(judge(describe(squares, features, model.reference), description.reference))
    return [
        Answer(_findings(description, point, row), likeness) for row, likeness in zip(scores, likenesses, strict=True)
    ]


def operating_point(description: ModelDescription, site: str | None) -> OperatingPoint:
    """Thresholds and calibration of a site; without any, scores are probabilities and nothing is called.

    Raises:
        UserError: if a site is named that the model has no thresholds for.
    """
    points = description.operating_points
    if site is not None and site not in points:
        raise UserError(f"--site {site}: the model has thresholds for {', '.join(sorted(points)) or 'no site'}.")
    found = points.get(site or POOLED)
    if found is not None:
        return found
    n = len(description.findings)
    reason = f"{NO_POINT}; name one with --site" if points else NO_POINT
    return OperatingPoint(
        thresholds=(None,) * n, reasons=(reason,) * n, rule="none", slope=(1.0,) * n, intercept=(0.0,) * n
    )


def calibrate(scores: Floats, point: OperatingPoint) -> Floats:
    """``sigmoid(slope * logit(score) + intercept)``, scores ``[..., C]``."""
    if point.calibration == "none":
        return scores
    inside = np.clip(scores, _EDGE, 1 - _EDGE)
    z = np.asarray(point.slope) * (np.log(inside) - np.log1p(-inside)) + np.asarray(point.intercept)
    with np.errstate(invalid="ignore"):  # a NaN, for want of a threshold, stays one
        result: Floats = np.exp(-np.logaddexp(0.0, -z))
    return result


def _findings(description: ModelDescription, point: OperatingPoint, scores: Floats) -> tuple[FindingAnswer, ...]:
    probabilities = calibrate(scores, point)
    limits = np.array([np.nan if t is None else t for t in point.thresholds])
    shown = calibrate(limits, point)
    return tuple(
        FindingAnswer(
            name,
            float(scores[c]),
            float(probabilities[c]),
            None if np.isnan(limits[c]) else float(shown[c]),
            None if np.isnan(limits[c]) else bool(scores[c] >= limits[c]),
            point.reasons[c],
        )
        for c, name in enumerate(description.findings)
    )
