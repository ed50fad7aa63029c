"""Averages that a minority of poisoned updates can't move far: coordinate-wise median and trimmed mean.

Both look at every number of the model by itself, over all sites, each with one vote: a weight by images would let a
site that claims more images have more votes. Yin, Chen, Ramchandran, Bartlett, *Byzantine-Robust Distributed
Learning: Towards Optimal Statistical Rates*, ICML 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from nc_medfl.federation.class_statistics import Floats

#: Bytes of float64 that one stretch of a parameter may take over all sites together.
_STRETCH = 32 * 2**20

Reader = Callable[[int, str, int, int], Tensor]
Combine = Callable[[Tensor], Tensor]


def median(values: Tensor) -> Tensor:
    """Coordinate-wise median over the first axis ``[S, ...]``; the mean of the middle two of an even number."""
    ordered = values.sort(dim=0).values
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def trimmed_mean(values: Tensor, fraction: float) -> Tensor:
    """Mean over the first axis ``[S, ...]`` without the lowest and the highest of each coordinate.

    Args:
        values: of the sites.
        fraction: to leave out at either end, below 0.5, rounded up to whole sites (but some are always kept): of five
            sites, 0.1 leaves out one at either end.
    """
    sites = len(values)
    cut = min(math.ceil(sites * fraction - 1e-9), (sites - 1) // 2)
    return values.sort(dim=0).values[cut : sites - cut].mean(dim=0)


def combiner(robust: str, trim_fraction: float) -> Combine:
    """The function that a job's ``aggregation.robust`` names."""
    return median if robust == "median" else partial(trimmed_mean, fraction=trim_fraction)


def robust_average(
    previous: Mapping[str, Tensor],
    read: Reader,
    n_sites: int,
    combine: Combine,
    *,
    class_axes: Mapping[str, int],
    positives: Floats,
) -> dict[str, Tensor]:
    """The next global model by a robust mean, a stretch of a parameter at a time.

    Args:
        previous: the last one; its names, shapes and types are kept.
        read: gives elements of a site's parameter, flat: ``read(site, name, start, stop)``.
        n_sites: how many there are; none leaves the previous model as it is.
        combine: :func:`median` or :func:`trimmed_mean`, over ``[S, n]``.
        class_axes: for parameters whose classes are combined over the sites that have a positive of it (or withhold
            their count), the axis of the classes; a class that no site has keeps its previous value.
        positives: of each class at each site, ``[S, C]``.

    Returns:
        Parameters and buffers by name. Integer buffers hold the rounded result, as integers.
    """
    if n_sites == 0:
        return dict(previous)
    has_say = torch.from_numpy(~(positives <= 0))  # NaN has a say
    stretch = max(1, _STRETCH // (8 * n_sites))
    out = {}
    for name, old in previous.items():
        value = torch.empty(old.numel(), dtype=torch.float64)
        for start in range(0, old.numel(), stretch):
            stop = min(start + stretch, old.numel())
            stacked = torch.stack([read(site, name, start, stop).double() for site in range(n_sites)])
            if name in class_axes:
                classes = _classes(old.shape, class_axes[name])[start:stop]
                value[start:stop] = _by_class(stacked, classes, has_say, old.reshape(-1)[start:stop].double(), combine)
            else:
                value[start:stop] = combine(stacked)
        value = value.reshape(old.shape)
        out[name] = (value if old.is_floating_point() else value.round()).to(old.dtype)
    return out


def _by_class(stacked: Tensor, classes: Tensor, has_say: Tensor, old: Tensor, combine: Combine) -> Tensor:
    value = old.clone()
    for number in sorted(set(classes.tolist())):
        sites = has_say[:, number]
        if bool(sites.any()):
            here = classes == number
            value[here] = combine(stacked[sites][:, here])
    return value


def _classes(shape: torch.Size, axis: int) -> Tensor:
    """The class of each element of a parameter, flat."""
    along = [1] * len(shape)
    along[axis] = shape[axis]
    return torch.arange(shape[axis]).reshape(along).expand(shape).reshape(-1)
