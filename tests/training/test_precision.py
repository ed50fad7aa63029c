"""The choice of a number format: by the faster clock, once, and told."""

from __future__ import annotations

import copy

import pytest
import torch

from nc_medfl.config import JobSettings
from nc_medfl.networks import FedNCANet
from nc_medfl.settings import parse
from nc_medfl.training.precision import Precision, cudnn, try_out

SHAPE = (2, 1, 32, 32)


class Clock:
    """Time that runs by as much as the next of the steps is to take."""

    def __init__(self, *steps: float) -> None:
        self._readings = [reading for step in steps for reading in (0.0, step)]

    def __call__(self) -> float:
        return self._readings.pop(0)


@pytest.mark.parametrize(
    ("steps", "chosen"),  # float32, mixed, float32, mixed: the least of either counts
    [((1.0, 0.5, 1.0, 0.6), "mixed"), ((1.0, 0.95, 1.0, 0.95), "float32"), ((0.5, 1.0, 9.0, 0.49), "float32")],
)
def test_mixed_is_chosen_where_it_is_faster_by_a_tenth(steps: tuple[float, ...], chosen: str) -> None:
    trial = try_out(FedNCANet(2, "small"), SHAPE, Clock(*steps))
    assert trial.chosen == chosen
    assert str(trial).startswith(f"training.precision auto: {chosen} (float32 ")


def test_a_trial_leaves_network_and_generator_as_they_were() -> None:
    network = FedNCANet(2, "small")
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    try_out(network, SHAPE)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_is_bfloat16_where_there_is_any_and_then_no_loss_is_scaled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Precision(torch.device("cpu"), mixed=True).half == torch.bfloat16
    gpu = Precision(torch.device("cuda"), mixed=True)
    for has_it in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, has_it=has_it: has_it)
        assert gpu.half == (torch.bfloat16 if has_it else torch.float16)
    assert not Precision(torch.device("cpu"), mixed=True).scaler().is_enabled()


@pytest.mark.parametrize(("older", "now"), [(True, "mixed"), (False, "float32")])
def test_files_of_earlier_versions_say_amp(older: bool, now: str) -> None:
    read = parse(JobSettings, {"vocabulary": "nih14", "training": {"amp": older}}, where="test")
    assert read.training.precision == now
    assert "amp" not in read.model_dump()["training"]


def test_flags_of_cudnn_are_put_back() -> None:
    flags = torch.backends.cudnn
    before = flags.benchmark, flags.deterministic
    for deterministic in (True, False):
        with cudnn(deterministic):
            assert (flags.benchmark, flags.deterministic) == (not deterministic, deterministic)
        assert (flags.benchmark, flags.deterministic) == before
