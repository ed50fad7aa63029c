"""The server's control variate of SCAFFOLD, as functions on tensors.

Source: Karimireddy et al., ICML 2020 (arXiv 1910.06378), algorithm 1: ``c`` moves by the sum of the changes of the
``c_i`` over the number of all sites, and a site that did not answer counts with no change.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nc_medfl.training.methods import Tensors


def moved(control: Tensors, changes: Mapping[str, Tensors], n_sites: int) -> dict[str, Tensor]:
    """The server's next control variate.

    Args:
        control: the present one, by parameter.
        changes: of the sites' own, by site.
        n_sites: of the federation, those without a change included.
    """
    ordered = [changes[site] for site in sorted(changes)]
    out = {}
    for name, value in control.items():
        total = torch.zeros_like(value, dtype=torch.float64)
        for change in ordered:
            total += change[name].double()
        out[name] = (value.double() + total / n_sites).to(value.dtype)
    return out


def first_controls(network: nn.Module) -> dict[str, Tensor]:
    """The control variate before the first round: zero for every trained parameter."""
    trained = ((name, value.detach().cpu()) for name, value in network.named_parameters() if value.requires_grad)
    return {name: torch.zeros_like(value) for name, value in trained}
