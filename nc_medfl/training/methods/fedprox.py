"""FedProx: the plain baseline with a pull towards the global model.

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, Federated Optimization in Heterogeneous Networks, MLSys 2020
(arXiv 1812.06127), equation 2: each site minimises its loss plus ``mu/2 ||w - w_global||^2``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from nc_medfl.config import JobSettings
from nc_medfl.training.methods import fedavg
from nc_medfl.training.methods.base import LocalMemory, LocalRule


class ProximalRule(LocalRule):
    """Adds ``mu/2 ||w - w_global||^2`` over the parameters that are trained and shared.

    Buffers (statistics of batch normalisation) are left out: no gradient moves them.

    Args:
        network: holding the global weights; they are copied.
        mu: the strength of the pull, 0 or more.
    """

    def __init__(self, network: nn.Module, mu: float) -> None:
        self._mu = mu
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._pairs = [(parameter, parameter.detach().clone()) for parameter in parameters]

    def penalty(self) -> tuple[str, Tensor] | None:
        """The term at the weights as they are now, a scalar."""
        squares = [(parameter - start).square().sum() for parameter, start in self._pairs]
        return "proximal", 0.5 * self._mu * torch.stack(squares).sum()


def _local_rule(network: nn.Module, settings: JobSettings, _memory: LocalMemory) -> LocalRule:
    return ProximalRule(network, settings.fedprox.mu)


METHOD = replace(fedavg.METHOD, name="fedprox", title="FedProx", local_rule=_local_rule)
