"""FedNH-style: a normalised classifier whose rows are class means, smoothed from round to round.

Source: Dai, Chen, Li, Heinecke, Sun and Xu, Tackling Data Heterogeneity in Federated Learning with Class Prototypes,
AAAI 2023 (arXiv 2212.02758): prototypes start spread over the sphere, no gradient moves them, and after each round
``W <- normalise(rho W + (1 - rho) * mean of the sites' class means)``.

For many labels an image: a finding's mean is over the images that have it, each finding has a sigmoid with a learned
bias instead of a share in one softmax. A site works out ``rho W + (1 - rho) m`` of its own mean m, and the server
averages it as any other tensor: the same sum, since averaging is linear; who reads it normalises it. A site without
(enough) positives of a finding sends W, so with ``aggregation.weighting=class_aware`` it has no say in it, and else
slows it down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from nc_medfl.config import JobSettings
from nc_medfl.networks import unit_vectors
from nc_medfl.training.methods import fedavg
from nc_medfl.training.methods.base import LocalMemory, LocalRule


def smoothed(prototypes: Tensor, sums: Tensor, counts: Tensor, rho: float, fewest: int = 1) -> Tensor:
    """A site's next prototypes, ``[C, D]``.

    Args:
        prototypes: unit vectors, ``[C, D]``.
        sums: of the unit features over the positives of each class, ``[C, D]``.
        counts: of positives, ``[C]``.
        rho: share of the old.
        fewest: a class with fewer positives keeps its old one.
    """
    moved = rho * prototypes + (1 - rho) * unit_vectors(sums / counts.clamp(min=1)[:, None])
    return torch.where((counts >= fewest)[:, None], moved, prototypes)


class PrototypeRule(LocalRule):
    """Moves the prototypes by the class means of the locally trained network.

    Args:
        network: with a prototype head.
        rho: share of the old prototypes.
        fewest: positives that a class needs.
    """

    def __init__(self, network: nn.Module, rho: float, fewest: int) -> None:
        self._network, self._rho, self._fewest = network, rho, max(1, fewest)

    @torch.no_grad()
    def after_epochs(self, batches: Callable[[], Iterable[Mapping[str, Tensor]]]) -> None:
        """Work out the class means and put the new prototypes into the network."""
        prototypes = self._network.get_buffer("head.prototypes")
        sums, counts = torch.zeros_like(prototypes), prototypes.new_zeros(len(prototypes))
        was_training = self._network.training
        self._network.eval()
        for batch in batches():
            features = unit_vectors(self._network(batch["image"].to(prototypes.device)).features.float())
            positive = (batch["label"].to(prototypes.device) == 1).float()
            sums += positive.T @ features
            counts += positive.sum(dim=0)
        self._network.train(was_training)
        prototypes.copy_(smoothed(unit_vectors(prototypes), sums, counts, self._rho, self._fewest))


def _local_rule(network: nn.Module, settings: JobSettings, memory: LocalMemory) -> LocalRule:
    return PrototypeRule(network, settings.fednh.rho, memory.fewest)


METHOD = replace(
    fedavg.METHOD,
    name="fednh",
    title="FedNH",
    network_args=partial(fedavg.args_of_unit_head, "prototypes"),
    local_rule=_local_rule,
    needs_class_means=True,
)
