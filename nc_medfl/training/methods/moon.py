"""MOON: the plain baseline, whose features are drawn to the global model's and off the site's own last ones.

Source: Li, He and Song, Model-Contrastive Federated Learning, CVPR 2021 (arXiv 2103.16257), equation 3. The paper
compares the output of a small projection head; here it is the pooled feature that the classifier reads.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nc_medfl.config import JobSettings
from nc_medfl.training.methods import fedavg
from nc_medfl.training.methods.base import LocalMemory, LocalRule


def model_contrast(now: Tensor, globally: Tensor, before: Tensor, temperature: float) -> Tensor:
    """Mean over images of ``-log(e^(cos(now, globally)/t) / (e^(cos(now, globally)/t) + e^(cos(now, before)/t)))``.

    Args:
        now: features of the model in training, ``[B, D]``.
        globally: of the global model; ``before`` of the site's own model after its last round.
        temperature: t.
    """
    nearer = F.cosine_similarity(now, globally, dim=1) - F.cosine_similarity(now, before, dim=1)
    return F.softplus(-nearer / temperature).mean()


class ContrastRule(LocalRule):
    """Adds ``mu`` times :func:`model_contrast`; a site's first round has no earlier model, and no such term.

    Args:
        network: holding the global weights; it is copied.
        mu: weight of the term.
        temperature: of the contrast.
        memory: the state dict of the site's last model, as kept.
    """

    def __init__(self, network: nn.Module, mu: float, temperature: float, memory: LocalMemory) -> None:
        self._network, self._mu, self._temperature = network, mu, temperature
        self._others: list[nn.Module] = []
        if memory.kept and mu > 0:
            self._others = [copy.deepcopy(network).eval() for _ in range(2)]
            self._others[1].load_state_dict(dict(memory.kept))

    def contrast(self, image: Tensor, output: Any) -> tuple[str, Tensor] | None:
        """The term of a batch, a scalar."""
        if not self._others:
            return None
        with torch.no_grad():
            globally, before = (other(image).features.float() for other in self._others)
        term = model_contrast(output.features.float(), globally, before, self._temperature)
        return "contrast", self._mu * term

    def finish(self) -> LocalMemory:
        """Nothing to send; the model to keep."""
        return LocalMemory(kept={name: value.detach().clone() for name, value in self._network.state_dict().items()})


def _local_rule(network: nn.Module, settings: JobSettings, memory: LocalMemory) -> LocalRule:
    return ContrastRule(network, settings.moon.mu, settings.moon.temperature, memory)


METHOD = replace(fedavg.METHOD, name="moon", title="MOON", local_rule=_local_rule, keeps_state=True)
