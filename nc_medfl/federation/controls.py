"""The server's control variate of SCAFFOLD, as functions on tensors.

Source: Karimireddy et al., ICML 2020 (arXiv 1910.06378), algorithm 1: ``c`` moves by the sum of the changes of the
``c_i`` over the number of all sites, and a site that did not answer counts with no change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from nc_medfl.federation.norms import ENOUGH
from nc_medfl.federation.robust import Combine
from nc_medfl.training.methods import Tensors


def moved(
    control: Tensors, changes: Mapping[str, Tensors], n_sites: int, combine: Combine | None = None
) -> dict[str, Tensor]:
    """The server's next control variate.

    Args:
        control: the present one, by parameter.
        changes: of the sites' own, by site.
        n_sites: of the federation, those without a change included.
        combine: takes the place of the mean over the sites that answered (see :mod:`nc_medfl.federation.robust`);
            what it gives counts for all of them. None is the mean.
    """
    ordered = [changes[site] for site in sorted(changes)]
    out = {}
    for name, value in control.items():
        if combine is not None and ordered:
            total = combine(torch.stack([change[name].double() for change in ordered])) * len(ordered)
        else:
            total = torch.zeros_like(value, dtype=torch.float64)
            for change in ordered:
                total += change[name].double()
        out[name] = (value.double() + total / n_sites).to(value.dtype)
    return out


def bounded(changes: Mapping[str, Tensors], ratio: float) -> dict[str, Tensors]:
    """Changes of which none is longer than a multiple of the median length (L2 norm) of the round; as they are where
    fewer than three can't tell which of them is long.

    Args:
        changes: of the sites, by site.
        ratio: the multiple.
    """
    lengths = {site: _length(change) for site, change in changes.items()}
    limit = ratio * float(np.median([*lengths.values()])) if len(lengths) >= ENOUGH else math.inf
    return {
        site: change
        if lengths[site] <= limit
        else {name: value * (limit / lengths[site]) for name, value in change.items()}
        for site, change in changes.items()
    }


def _length(change: Tensors) -> float:
    squares = (float(torch.linalg.vector_norm(value, dtype=torch.float64)) ** 2 for value in change.values())
    return math.sqrt(sum(squares))


def first_controls(network: nn.Module) -> dict[str, Tensor]:
    """The control variate before the first round: zero for every trained parameter."""
    trained = ((name, value.detach().cpu()) for name, value in network.named_parameters() if value.requires_grad)
    return {name: torch.zeros_like(value) for name, value in trained}
