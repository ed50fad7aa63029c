"""Neural collapse, measured from sums alone (METHOD section 6).

A site adds up its L2-normalised class features, positives and negatives of each class apart. Those sums and
counts are all that leaves it: the squared norm of each feature is 1, so they hold every variance too, and a
server can follow the collapse of the federation without any patient's feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nc_medfl.networks.etf import unit_vectors

#: Means of unit vectors closer than this differ by rounding alone.
_NO_DISTANCE = 1e-12


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Counts and sums of normalised class features; index 0 holds the positives, 1 the negatives.

    Who withholds a class leaves it out of the sum, with counts and sums of zero.

    Attributes:
        counts: features added up, float64, ``[2, C]``.
        sums: their sums, float64, ``[2, C, D]``.

    Raises:
        ValueError: if the shapes don't fit.
    """

    counts: Tensor
    sums: Tensor

    def __post_init__(self) -> None:
        counts, sums = tuple(self.counts.shape), tuple(self.sums.shape)
        if len(sums) != 3 or sums[0] != 2 or counts != sums[:2]:
            raise ValueError(f"statistics need counts [2, C] and sums [2, C, D], not {counts} and {sums}")

    @classmethod
    def empty(cls, num_classes: int, feature_dim: int) -> ClassStatistics:
        """Statistics of no features at all."""
        return cls(
            torch.zeros(2, num_classes, dtype=torch.float64),
            torch.zeros(2, num_classes, feature_dim, dtype=torch.float64),
        )

    def __add__(self, other: ClassStatistics) -> ClassStatistics:
        """The statistics of both together."""
        if self.sums.shape != other.sums.shape:
            raise ValueError(f"statistics of shapes {tuple(self.sums.shape)} and {tuple(other.sums.shape)}")
        return ClassStatistics(self.counts + other.counts, self.sums + other.sums)

    def cpu(self) -> ClassStatistics:
        """The same, in main memory."""
        return ClassStatistics(self.counts.cpu(), self.sums.cpu())


def class_statistics(class_features: Tensor, targets: Tensor) -> ClassStatistics:
    """Add up the normalised class features of a batch.

    Args:
        class_features: Z, ``[B, C, D]``; normalised here, in float64. A zero vector has no direction and is
            left out.
        targets: ``[B, C]``, 1, 0 or NaN; NaN is left out.

    Returns:
        The statistics, on the features' device.

    Raises:
        ValueError: if the shapes don't fit.
    """
    if class_features.ndim != 3 or class_features.shape[:2] != targets.shape:
        raise ValueError(
            f"class features must be [B, C, D] beside targets {tuple(targets.shape)}, not {tuple(class_features.shape)}"
        )
    wanted = torch.stack([targets == 1, targets == 0]) & class_features.ne(0).any(dim=-1)
    # Replaced before the product: 0 * NaN is NaN, and the feature of an unknown pair may be anything.
    features = torch.where(wanted.any(dim=0)[..., None], class_features, torch.zeros_like(class_features))
    directions = unit_vectors(features.detach().double(), shortest=1e-150)
    weights = wanted.double()
    return ClassStatistics(weights.sum(dim=1), torch.einsum("kbc,bcd->kcd", weights, directions))


@dataclass(frozen=True, eq=False)
class CollapseMetrics:
    """How far the class features have collapsed. NaN is undefined: too few classes, or no distance to measure.

    Attributes:
        nc1: variability within classes over that between them; 0 is full collapse.
        nc2_angle: mean departure of the angles between class means from a simplex's; 0 is a simplex.
        nc2_length: spread of the lengths of the centred class means over their mean; 0 is equal lengths.
        nc3: mean cosine of a centred class mean and its vertex; 1 is full alignment.
        ncpn: a class at a time, variance of positives and negatives over their squared distance,
            float64 ``[C]``; 0 is full separation. It is what classifies; NC1 compares features of different queries.
        n_classes: classes that NC1 to NC3 run over.
        nc1_by_class: a class's own variance over the variance between classes, float64 ``[C]``; their mean is ``nc1``.
        alignment: cosine of each centred class mean and its vertex, float64 ``[C]``; their mean is ``nc3``.
    """

    nc1: float
    nc2_angle: float
    nc2_length: float
    nc3: float
    ncpn: Tensor
    n_classes: int
    nc1_by_class: Tensor
    alignment: Tensor


def collapse_metrics(stats: ClassStatistics, frame: Tensor, min_positives: int = 1) -> CollapseMetrics:
    """Work out NC1 to NC3 and NCpn from counts and sums alone.

    With unit vectors z of mean mu, the mean of ``|z - mu|^2`` is ``1 - |mu|^2``: the trace of their covariance.
    Covariances and the spread of NC2 are the population's (divided by n). Class means count once each, and the
    frame is centred over the same classes.

    Args:
        stats: of a site, or added up over sites.
        frame: M, ``[C, D]``.
        min_positives: classes with fewer positives are left out of NC1 to NC3, and NaN in NCpn.

    Returns:
        The metrics; NC1 to NC3 are NaN with fewer than two classes.

    Raises:
        ValueError: if the frame does not fit the statistics.
    """
    if frame.shape != stats.sums.shape[1:]:
        raise ValueError(f"the frame must be {tuple(stats.sums.shape[1:])}, not {tuple(frame.shape)}")
    stats = stats.cpu()
    frame = frame.detach().to("cpu", torch.float64)
    means = stats.sums / stats.counts[..., None]  # NaN where nothing was added up
    variances = (1 - means.square().sum(dim=-1)).clamp_min(0)
    enough = stats.counts[0] >= max(min_positives, 1)
    distances = (means[0] - means[1]).square().sum(dim=-1)
    ncpn = torch.where(enough, _ratio(variances.sum(dim=0), distances), torch.nan)
    n_classes = int(enough.sum())
    if n_classes < 2:
        none = torch.full_like(ncpn, math.nan)
        return CollapseMetrics(math.nan, math.nan, math.nan, math.nan, ncpn, n_classes, none, none)
    centred = means[0][enough] - means[0][enough].mean(dim=0)
    vertices = frame[enough] - frame[enough].mean(dim=0)
    lengths = centred.norm(dim=-1)
    lengths = torch.where(lengths > _NO_DISTANCE, lengths, 0.0)
    directions = centred / lengths[:, None]  # NaN for a mean that is the centre: it has no angle
    off_diagonal = ~torch.eye(n_classes, dtype=torch.bool)
    cosines = (directions @ directions.T)[off_diagonal]
    alignment = (directions * vertices / vertices.norm(dim=-1, keepdim=True)).sum(dim=-1)
    between = centred.square().sum(dim=-1).mean()
    return CollapseMetrics(
        nc1=float(_ratio(variances[0][enough].mean(), between)),
        nc2_angle=float((cosines + 1 / (n_classes - 1)).abs().mean()),
        nc2_length=float(_ratio(lengths.std(correction=0), lengths.mean())),
        nc3=float(alignment.mean()),
        ncpn=ncpn,
        n_classes=n_classes,
        nc1_by_class=_by_class(_ratio(variances[0][enough], between), enough),
        alignment=_by_class(alignment, enough),
    )


def _by_class(values: Tensor, enough: Tensor) -> Tensor:
    """Values of some classes in the places of all, NaN in those of the others."""
    out = torch.full(enough.shape, math.nan, dtype=torch.float64)
    out[enough] = values
    return out


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The quotient; NaN instead of an infinity where there is no distance to divide by."""
    return torch.where(below > _NO_DISTANCE**2, above / below, torch.nan)
