"""What a network is, apart from what it has learned: fingerprints, and which parameters belong to classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def network_fingerprint(network: nn.Module, settings: Mapping[str, Any], guarded: Mapping[str, str]) -> str:
    """SHA-256 over a network's make: its class, settings, and the ordered names and shapes of its tensors.

    Args:
        network: its weights don't enter.
        settings: what changes the network without changing a name or a shape; JSON values.
        guarded: fingerprints of tensors that are in no state dict and must agree all the same.

    Returns:
        Hexadecimal text.
    """
    content = {
        "class": f"{type(network).__module__}.{type(network).__qualname__}",
        "settings": dict(settings),
        "tensors": [[name, list(value.shape)] for name, value in network.state_dict().items()],
        "guarded": dict(guarded),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def class_parameters(module: nn.Module) -> dict[str, int]:
    """The parameters that belong to classes, and along which axis.

    An aggregator weighs these a class at a time, so that a site which never saw a class has no say in it.

    Args:
        module: any network of this package.

    Returns:
        Parameter name, as in the state dict, to axis of the class. Empty if there is none.
    """
    return {
        f"{path}.{name}" if path else name: axis
        for path, part in module.named_modules()
        for name, axis in getattr(part, "class_axes", {}).items()
    }


@contextmanager
def seeded_weights(seed: int | None) -> Iterator[None]:
    """Draw weights from a seed of their own and leave the global generator as it was; None: draw from it."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs' too
        yield
