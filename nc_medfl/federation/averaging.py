"""Combining updates: the arithmetic of the server, as functions on tensors.

Shared parameters are averaged by a weight of the site. Parameters that belong to a class (biases, learned
queries, heads) can instead be averaged by that class's positives at each site, so a site that never saw a
class has no say in its row. Sums are taken in float64, in the order of site names.

These functions hold all updates at once and are the reference. The server adds updates up as they arrive
(:mod:`nc_medfl.federation.streaming`), with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nc_medfl.federation.class_statistics import Floats, SiteStatistics


@dataclass(frozen=True)
class SiteUpdate:
    """What one site sends after a round.

    Attributes:
        site: its name.
        params: parameters and buffers by name.
        n_samples: training images.
        statistics: its counts of positives by class, and sums of features.
    """

    site: str
    params: Mapping[str, Tensor]
    n_samples: int
    statistics: SiteStatistics


def site_weights(updates: Sequence[SiteUpdate], weighting: str) -> Floats:
    """Weights of the sites for shared parameters, ``[S]``: whole numbers, to be divided by their sum.

    Args:
        updates: of the accepted sites.
        weighting: ``uniform``, or ``samples`` and ``class_aware`` (both by training images).
    """
    return np.array([1 if weighting == "uniform" else u.n_samples for u in updates], dtype=np.float64)


def filled_positives(positives: Floats) -> Floats:
    """Positives with a stand-in where a site withholds its count: the mean over the sites that tell.

    Args:
        positives: of each class at each site, ``[S, C]``; NaN where withheld.

    Returns:
        ``[S, C]``; a class whose count every site withholds has 1 at each.
    """
    told = ~np.isnan(positives)
    known = np.where(told, positives, 0.0)
    n_told = told.sum(axis=0)
    mean = np.divide(known.sum(axis=0), n_told, out=np.ones(positives.shape[1]), where=n_told > 0)
    filled: Floats = np.where(told, positives, mean)
    return filled


def average(
    previous: Mapping[str, Tensor],
    updates: Sequence[SiteUpdate],
    *,
    weighting: str,
    class_axes: Mapping[str, int],
) -> dict[str, Tensor]:
    """The next global model.

    Args:
        previous: the last one; its names, shapes and types are kept.
        updates: accepted ones; none leaves the previous model as it is.
        weighting: ``uniform`` (the published method), ``samples`` or ``class_aware``.
        class_axes: for parameters that belong to classes, the axis along which the classes lie.

    Returns:
        Parameters and buffers by name. Integer buffers hold the rounded mean, as integers.
    """
    ordered = sorted(updates, key=lambda update: update.site)
    if not ordered:
        return dict(previous)
    shared = torch.from_numpy(site_weights(ordered, weighting))
    by_class = torch.from_numpy(filled_positives(np.stack([u.statistics.counts[0] for u in ordered])))
    out: dict[str, Tensor] = {}
    for name, old in previous.items():
        stacked = torch.stack([torch.as_tensor(u.params[name]).double() for u in ordered])
        if weighting == "class_aware" and name in class_axes:
            value = _average_by_class(stacked, old.double(), by_class, class_axes[name])
        else:
            # Divided last: whole weights times float32 values, and their sum, are exact in float64 as a rule.
            value = torch.tensordot(shared, stacked, dims=1) / shared.sum()
        out[name] = (value if old.is_floating_point() else value.round()).to(old.dtype)
    return out


def _average_by_class(stacked: Tensor, old: Tensor, weights: Tensor, axis: int) -> Tensor:
    shape = [len(weights)] + [1] * (stacked.ndim - 1)
    shape[axis + 1] = weights.shape[1]
    spread = weights.reshape(shape)
    total = spread.sum(dim=0)
    mean = (stacked * spread).sum(dim=0) / total
    return torch.where((total > 0).expand_as(mean), mean, old)
