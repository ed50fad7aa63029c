"""The learning rate over rounds, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nc_medfl.config import JobSettings, TrainingSettings
from nc_medfl.training.model import build_network
from nc_medfl.training.schedule import in_round, rate_factor
from nc_medfl.training.trainer import train_round


def factors(rounds: int, **settings: object) -> list[float]:
    return [rate_factor(TrainingSettings(**settings), number, rounds) for number in range(rounds)]


def test_without_a_schedule_the_rate_stays() -> None:
    assert factors(4) == [1.0] * 4


def test_half_a_cosine_by_hand() -> None:
    # (1 + cos(pi r / 4)) / 2 at r = 0, 1, 2, 3: cosines 1, sqrt(1/2), 0, -sqrt(1/2).
    root = math.sqrt(0.5)
    assert factors(4, lr_schedule="cosine") == pytest.approx([1.0, (1 + root) / 2, 0.5, (1 - root) / 2])


def test_the_rate_rises_first_and_then_falls_over_the_rounds_that_are_left() -> None:
    # Two rounds of warm-up at 1/3 and 2/3, then the four of the cosine above.
    root = math.sqrt(0.5)
    expected = [1 / 3, 2 / 3, 1.0, (1 + root) / 2, 0.5, (1 - root) / 2]
    assert factors(6, lr_schedule="cosine", warmup_rounds=2) == pytest.approx(expected)
    assert factors(3, warmup_rounds=1) == pytest.approx([0.5, 1.0, 1.0])


@pytest.mark.parametrize("rounds", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0, 1, 5, 200])
def test_no_round_trains_at_nothing_or_at_more_than_the_rate(rounds: int, warmup: int) -> None:
    assert all(0 < value <= 1 for value in factors(rounds, lr_schedule="cosine", warmup_rounds=warmup))


def test_only_the_rate_differs_between_rounds() -> None:
    job = JobSettings(rounds=4, method="fedavg", training={"lr": 0.02, "lr_schedule": "cosine"})
    assert in_round(job, 2).training.lr == pytest.approx(0.01)
    assert in_round(job, 2).model_copy(update={"training": job.training}) == job


@pytest.mark.parametrize("keep", [False, True])
def test_a_round_steps_by_its_own_rate_also_with_an_optimiser_that_was_kept(keep: bool) -> None:
    # Plain SGD on the same gradient: half of the rate, half of the step.
    training = {"optimizer": "sgd", "weight_decay": 0.0, "lr": 0.1, "lr_schedule": "cosine", "keep_optimizer": keep}
    job = JobSettings(rounds=2, method="fedavg", training=training, network={"backbone": "small", "norm": "group"})
    batch = {"image": torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)), "label": torch.zeros(4, 14)}
    start = build_network(job)
    state, steps = None, []
    for number in (0, 1):
        network = build_network(job)
        result = train_round(network, lambda _: [batch], job, round_number=number, seed=0, optimizer_state=state)
        state = result.optimizer
        steps.append(_moved(network, start))
    assert (state is not None) == keep
    assert float(steps[0].norm()) > 0.01
    assert torch.allclose(steps[1], 0.5 * steps[0], rtol=1e-3, atol=1e-6)


def _moved(network: nn.Module, start: nn.Module) -> torch.Tensor:
    pairs = zip(network.parameters(), start.parameters(), strict=True)
    return torch.cat([(now - before).detach().flatten() for now, before in pairs])
