"""Targets that keep what the federation knows of findings that a site doesn't have.

A site without a positive of a finding trains on negatives of it alone, and a round of that is enough to unlearn it.
For such a finding the target is moved from 0 towards the probability that the global model, as it came, gives the same
image: what it thinks likely stays likely, and what it rules out stays ruled out. The idea of letting the received model
guard what local data would wash out is that of learning without forgetting (Li and Hoiem, ECCV 2016) and, in
federations of one class an image, of FedNTD (Lee et al., NeurIPS 2022); targets a finding, chosen by what the site has
no positive of, are ours. Nothing more travels than without it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from nc_medfl.training import parallel
from nc_medfl.training.precision import Precision


class GlobalTargets:
    """The targets of one round at one site.

    Args:
        network: holding the global weights, on its device; it is copied.
        absent: findings without a positive in the site's training split, ``[C]`` bool.
        share: of the global model's probability in the target of such a finding, above 0 up to 1.
        precision: to run it in.
    """

    def __init__(self, network: nn.Module, absent: Tensor, share: float, precision: Precision) -> None:
        # Any: each of our networks has predictions(), which nn.Module doesn't know of.
        self._teacher: Any = copy.deepcopy(network).eval().requires_grad_(False)
        self._device = next(network.parameters()).device
        self._absent = absent.to(self._device)
        self._share = share
        self._precision = precision

    @torch.no_grad()
    def __call__(self, image: Tensor, targets: Tensor) -> Tensor:
        """The targets to train on.

        Args:
            image: this process's part of the batch.
            targets: of the whole batch, ``[B, C]``, 1, 0 or NaN; what is unknown stays unknown.
        """
        with self._precision.autocast():
            logits = self._teacher.predictions(image)
        likely = torch.sigmoid(parallel.gathered(logits.float(), len(targets)))
        return torch.where(self._absent & (targets == 0), self._share * likely, targets)
