"""What a federated method has to provide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from nc_medfl.config import JobSettings

#: Total first, then the parts by name; all scalars.
LossParts: TypeAlias = "tuple[Tensor, Mapping[str, Tensor]]"
LossFunction: TypeAlias = "Callable[[Any, Tensor], LossParts]"


@dataclass(frozen=True)
class Method:
    """A federated method.

    Attributes:
        name: as in a job's settings.
        title: as in prose and reports.
        network_class: import path of its network, which FLARE's persistor builds too.
        network_args: the network's arguments, JSON values, from settings and number of findings.
        build_loss: the local loss of a network, a function of (its output, targets ``[B, C]``, NaN unknown).
        has_class_features: whether the output holds ``class_features``, so that collapse can be followed.
    """

    name: str
    title: str
    network_class: str
    network_args: Callable[[JobSettings, int], dict[str, Any]]
    build_loss: Callable[[nn.Module, JobSettings], LossFunction]
    has_class_features: bool
