"""FedBN: the plain baseline whose batch normalisation stays at each site, weights and statistics.

Source: Li, Jiang, Zhang, Kamp and Dou, FedBN: Federated Learning on Non-IID Features via Local Batch Normalization,
ICLR 2021 (arXiv 2102.07623).

There is no single model: each site trains, scores and tests the shared part with its own normalisation, from its own
disk. What a site sends in the place of these layers is what it was sent, so the server's stay as they began.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nc_medfl.config import JobSettings
from nc_medfl.errors import UserError
from nc_medfl.training.methods import fedavg
from nc_medfl.training.methods.base import LocalMemory, LocalRule


def normalisation_names(network: nn.Module) -> frozenset[str]:
    """Names in the state dict of all parameters and statistics of batch normalisation."""
    return frozenset(
        f"{path}.{name}"
        for path, layer in network.named_modules()
        if isinstance(layer, _BatchNorm)
        for name in layer.state_dict()
    )


class PersonalRule(LocalRule):
    """Keeps the site's normalisation after a round.

    Args:
        network: with batch normalisation.

    Raises:
        UserError: if it has none.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network, self._names = network, normalisation_names(network)
        if not self._names:
            raise UserError("fedbn keeps batch normalisation, and this network has none. Set network.norm to batch.")

    def finish(self) -> LocalMemory:
        """Nothing to send; the layers to keep."""
        state = self._network.state_dict()
        return LocalMemory(kept={name: state[name].detach().clone() for name in sorted(self._names)})


def _local_rule(network: nn.Module, _settings: JobSettings, _memory: LocalMemory) -> LocalRule:
    return PersonalRule(network)


METHOD = replace(
    fedavg.METHOD,
    name="fedbn",
    title="FedBN",
    local_rule=_local_rule,
    keeps_state=True,
    personal=normalisation_names,
)
