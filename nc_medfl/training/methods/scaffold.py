"""SCAFFOLD: the plain baseline with control variates, which take the drift of a site's data out of its steps.

Source: Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning, ICML 2020 (arXiv 1910.06378), algorithm 1 with option II. The arithmetic at a site is FLARE's
``PTScaffoldHelper``.

The paper's steps are those of SGD (``training.optimizer=sgd``). With AdamW, a control variate is the mean of AdamW's
own steps over the learning rate, and the correction is added to each of its steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nc_medfl.config import JobSettings
from nc_medfl.training.methods import fedavg
from nc_medfl.training.methods.base import LocalMemory, LocalRule


class ScaffoldRule(LocalRule):
    """Corrects each step by ``lr (c_i - c)``, and works out the site's next control variate ``c_i``.

    Args:
        network: holding the global weights; they are copied.
        lr: of the optimiser.
        memory: the server's control variate ``c`` as received, the site's ``c_i`` as kept; an absent one is 0.
    """

    def __init__(self, network: nn.Module, lr: float, memory: LocalMemory) -> None:
        from nvflare.app_opt.pt.scaffold import PTScaffoldHelper

        self._network, self._lr = network, lr
        self._start = _Weights(network)
        self._helper: Any = PTScaffoldHelper()
        self._helper.init(network)
        if memory.received:
            self._helper.load_global_controls(memory.received)
        if memory.kept:
            self._helper.c_local.load_state_dict(memory.kept)
        self._controls = self._helper.get_params()

    def after_step(self) -> None:
        """Take the drift out of the step just made."""
        self._helper.model_update(self._network, self._lr, *self._controls)

    def finish(self) -> LocalMemory:
        """The change of the site's control variate, for the server, and the new one, for the site."""
        self._helper.terms_update(self._network, self._lr, *self._controls, self._start)
        change = {name: torch.as_tensor(value) for name, value in self._helper.get_delta_controls().items()}
        return LocalMemory(change, self._helper.c_local.state_dict())


class _Weights:
    """A copy of a network's parameters that answers as the network does where FLARE asks for them."""

    def __init__(self, network: nn.Module) -> None:
        self._values = {name: value.detach().clone() for name, value in network.named_parameters()}

    def state_dict(self) -> dict[str, Tensor]:
        return self._values


def _local_rule(network: nn.Module, settings: JobSettings, memory: LocalMemory) -> LocalRule:
    return ScaffoldRule(network, settings.training.lr, memory)


METHOD = replace(fedavg.METHOD, name="scaffold", title="SCAFFOLD", local_rule=_local_rule, has_memory=True)
