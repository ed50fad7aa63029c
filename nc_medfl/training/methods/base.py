"""What a federated method has to provide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor, nn

from nc_medfl.config import JobSettings

#: Total first, then the parts by name; all scalars.
LossParts: TypeAlias = "tuple[Tensor, Mapping[str, Tensor]]"
LossFunction: TypeAlias = "Callable[[Any, Tensor], LossParts]"
Tensors: TypeAlias = "Mapping[str, Tensor]"

#: Tensors of a method that travel with a model and are no part of it have names that start so.
EXTRA = "extra:"


def split_extras(params: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A message's model, and what travels beside it, the latter without :data:`EXTRA`."""
    model = {name: value for name, value in params.items() if not name.startswith(EXTRA)}
    return model, {name.removeprefix(EXTRA): value for name, value in params.items() if name.startswith(EXTRA)}


def join_extras(model: Tensors, extras: Tensors) -> dict[str, Tensor]:
    """A message of a model and what travels beside it; undone by :func:`split_extras`."""
    return {**model, **{EXTRA + name: value for name, value in extras.items()}}


@dataclass(frozen=True)
class LocalMemory:
    """What a method has besides the model when a round starts at a site.

    Attributes:
        received: tensors that came with the model.
        kept: tensors of this site's own, after the last round that it trained in; empty at first.
        fewest: positives that the mean of a class needs to leave the site.
    """

    received: Tensors = field(default_factory=dict)
    kept: Tensors = field(default_factory=dict)
    fewest: int = 1


class LocalRule:
    """What a method adds to the steps of one round of local training; this one adds nothing."""

    def penalty(self) -> tuple[str, Tensor] | None:
        """A term for the loss of a step, under its name, or None."""
        return None

    def contrast(self, _image: Tensor, _output: Any) -> tuple[str, Tensor] | None:
        """A term for the loss of a step that the batch ``[B, channels, H, W]`` and the network's output decide."""
        return None

    def after_step(self) -> None:
        """Called after each step of the optimiser."""

    def after_epochs(self, _batches: Callable[[], Iterable[Mapping[str, Tensor]]]) -> None:
        """Called once, after the last step, with what gives the training images once more; it may change buffers."""

    def finish(self) -> LocalMemory:
        """What to send with the update (``received`` by the server) and what to keep; called once, at the end."""
        return LocalMemory()


def plain_rule(_network: nn.Module, _settings: JobSettings, _memory: LocalMemory) -> LocalRule:
    """The rule of a method that adds nothing."""
    return LocalRule()


def nothing_personal(_network: nn.Module) -> frozenset[str]:
    """Of a method whose whole model is shared."""
    return frozenset()


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
        local_rule: what it adds to local training, made for one round while the network holds the global weights.
        has_memory: whether each site keeps tensors of the method's on its disk, and tensors travel with the model.
        keeps_state: whether each site keeps tensors on its disk, though none travel.
        needs_class_means: whether means of a site's classes are in its update.
        personal: names in the state dict that stay at each site: neither taken from the server nor sent to it.
    """

    name: str
    title: str
    network_class: str
    network_args: Callable[[JobSettings, int], dict[str, Any]]
    build_loss: Callable[[nn.Module, JobSettings], LossFunction]
    has_class_features: bool
    local_rule: Callable[[nn.Module, JobSettings, LocalMemory], LocalRule] = plain_rule
    has_memory: bool = False
    keeps_state: bool = False
    needs_class_means: bool = False
    personal: Callable[[nn.Module], frozenset[str]] = nothing_personal
