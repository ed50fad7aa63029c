"""In which number format to train: float32, or mixed with a half precision where the device is faster in it.

Weights, gradients of weights, the optimiser, the loss and what travels are float32 always; mixed precision is about the
activations of the network, by PyTorch's autocast. Which is faster depends on the machine: a processor without
instructions for bfloat16 is slower in it. So ``training.precision: auto`` tries both for a few steps.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Choice = Literal["float32", "mixed"]

#: Mixed precision has to be this much faster to be taken, since float32 is what results can be repeated in.
_WORTH = 0.9
_STEPS = 2


@dataclass(frozen=True)
class Precision:
    """How the activations of a network are worked out on a device.

    Attributes:
        device: where.
        mixed: whether in half precision, or all in float32.
    """

    device: torch.device
    mixed: bool

    @property
    def half(self) -> torch.dtype:
        """bfloat16; float16 on a GPU without it."""
        if self.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.float16
        return torch.bfloat16

    def autocast(self) -> torch.autocast:
        """The context that the network runs in."""
        return torch.autocast(self.device.type, dtype=self.half, enabled=self.mixed)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss where gradients would underflow, which is in float16 alone."""
        return torch.amp.GradScaler(self.device.type, enabled=self.mixed and self.half == torch.float16)


@contextmanager
def cudnn(deterministic: bool) -> Iterator[None]:
    """How cuDNN chooses its algorithms, for as long as the context lasts; without a GPU it changes nothing.

    Args:
        deterministic: algorithms that give the same bits every time; else the fastest of those that it tries.
    """
    flags = torch.backends.cudnn
    before = flags.benchmark, flags.deterministic
    flags.benchmark, flags.deterministic = not deterministic, deterministic
    try:
        yield
    finally:
        flags.benchmark, flags.deterministic = before


@dataclass(frozen=True)
class Trial:
    """What :func:`try_out` found.

    Attributes:
        chosen: the faster one.
        seconds: of one step of training, by precision.
    """

    chosen: Choice
    seconds: dict[Choice, float]

    def __str__(self) -> str:
        times = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in self.seconds.items())
        return f"training.precision auto: {self.chosen} ({times} a step)"


def try_out(network: nn.Module, shape: tuple[int, int, int, int], clock: Callable[[], float] | None = None) -> Trial:
    """Time forward and backward of a network on random images in either precision, and choose.

    Args:
        network: on its device; a copy is tried, and no generator is drawn from.
        shape: of a batch, ``[B, channels, H, W]``.
        clock: gives seconds; None waits for the device and takes the time of day.
    """
    device = next(network.parameters()).device
    clock = clock or (lambda: _now(device))
    copied = copy.deepcopy(network).train()
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    steps = {name: _step(copied, image, Precision(device, name == "mixed")) for name in ("float32", "mixed")}
    found: dict[Choice, float] = {"float32": float("inf"), "mixed": float("inf")}
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        for step in steps.values():
            step()  # the first is slower: kernels are chosen, memory is fetched
        # In turns, so that what else the machine does falls on both alike.
        for _ in range(_STEPS):
            for name in found:
                start = clock()
                steps[name]()
                found[name] = min(found[name], clock() - start)
    return Trial("mixed" if found["mixed"] < _WORTH * found["float32"] else "float32", found)


def _step(network: nn.Module, image: Tensor, precision: Precision) -> Callable[[], None]:
    def run() -> None:
        with precision.autocast():
            logits = network(image).logits
        torch.autograd.backward(logits.float().square().mean())
        network.zero_grad(set_to_none=True)

    return run


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
