"""On a GPU, reading a number back in the loop stalls the queue. Which operations do so is the same without one.

The head that is joined on a CPU is not used on a GPU, for it picks rows, and not here; the optimiser is fused on both.
What is then counted is every operation of a round whose result's value or shape the host has to wait for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nc_medfl.config import JobSettings
from nc_medfl.settings import parse
from nc_medfl.training import trainer
from nc_medfl.training.model import build_network

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"}
JOB = {"vocabulary": "nih14", "network": {"backbone": "small", "norm": "group"}}


class Watch(TorchDispatchMode):
    """Counts operations that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.steps = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put_") and any(
            isinstance(at, Tensor) and at.dtype == torch.bool for at in args[1] if at is not None
        )
        if name in WAITING or masked:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def waits(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], steps: int) -> Counter[str]:
    settings = parse(JobSettings, {**JOB, **changes}, where="test")

    def batches(_epoch: int) -> Iterator[dict[str, Tensor]]:
        rng = torch.Generator().manual_seed(0)
        for _ in range(steps):
            yield {
                "image": torch.rand(4, 1, 64, 64, generator=rng),
                "label": (torch.rand(4, 14, generator=rng) < 0.3).float(),
            }

    monkeypatch.setattr("nc_medfl.networks.joint_head.can_join", lambda *_: False)
    network = build_network(settings)
    absent = torch.tensor([True] + [False] * 13)
    with Watch() as watch:
        trainer.train_round(network, batches, settings, round_number=1, seed=0, absent=absent)
    return watch.seen


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "fednca"},
        {"method": "fedavg"},
        {"method": "fedprox"},
        {"method": "fednca", "training": {"clip_norm": 1.0, "precision": "mixed"}},
    ],
)
def test_no_step_of_training_waits_for_a_number(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    # What a round waits for once, at its start and end, is the same for one step and for three.
    assert waits(monkeypatch, changes, 3) == waits(monkeypatch, changes, 1)


def test_the_watch_sees_a_number_read_back() -> None:
    with Watch() as watch:
        torch.ones(2).sum().item()
        _ = torch.arange(3)[torch.tensor([True, False, True])]
    assert watch.seen["_local_scalar_dense"] == 1
    assert watch.seen["index"] + watch.seen["nonzero"] >= 1
