"""The server's own step and the mean of late models, on numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from nc_medfl.config import AggregationSettings
from nc_medfl.federation.server_step import ServerStep


def step(server: ServerStep, before: float, average: float) -> float:
    sent = {"w": torch.tensor([before]), "seen": torch.tensor([7.0])}
    got = server.step(sent, {"w": torch.tensor([average]), "seen": torch.tensor([average])})
    assert float(got["seen"]) == average  # a buffer is averaged and nothing else
    return float(got["w"])


def test_without_an_optimiser_the_average_is_the_next_model() -> None:
    server = ServerStep(AggregationSettings(), ["w"])
    assert step(server, 1.0, 3.0) == 3.0
    assert not server.has_memory
    assert server.state() == {}


def test_two_steps_of_momentum_by_hand() -> None:
    # Changes 2 and then 1: moments 2 and 0.5 * 2 + 1 = 2; with a rate of 0.5: 1 + 1 = 2, then 2 + 1 = 3.
    rules = AggregationSettings(server_optimizer="momentum", server_momentum=0.5, server_lr=0.5)
    server = ServerStep(rules, ["w"])
    assert step(server, 1.0, 3.0) == 2.0
    assert step(server, 2.0, 3.0) == 3.0


def test_a_step_of_adam_by_hand() -> None:
    # Change 2: moment 0.5 * 2 = 1, square 0.01 * 4 = 0.04, root 0.2; 0.1 * 1 / (0.2 + 0.05) = 0.4.
    rules = AggregationSettings(server_optimizer="adam", server_momentum=0.5, server_lr=0.1, server_adaptivity=0.05)
    assert step(ServerStep(rules, ["w"]), 1.0, 3.0) == pytest.approx(1.4)


def test_what_is_handed_out_is_the_mean_of_the_last_models() -> None:
    server = ServerStep(AggregationSettings(average_last=2), ["w"])
    model = {}
    for value, count in ((1.0, 1), (2.0, 2), (5.0, 5)):
        model = server.step({}, {"w": torch.tensor([value]), "n": torch.tensor(count)})
    out = server.handed_out(model)
    assert float(model["w"]) == 5.0  # training goes on from the last one
    assert float(out["w"]) == 3.5
    assert out["n"].dtype == torch.int64
    assert int(out["n"]) == 4  # 3.5, to the even side


def test_a_server_that_was_stopped_goes_on_as_if_it_had_not_been() -> None:
    rules = AggregationSettings(server_optimizer="adam", average_last=3)
    one, other = ServerStep(rules, ["w"]), ServerStep(rules, ["w"])
    for value in (1.0, 4.0):
        one.step({"w": torch.tensor([0.5])}, {"w": torch.tensor([value])})
    other.restore(one.state())
    sent, averaged = {"w": torch.tensor([2.0])}, {"w": torch.tensor([2.5])}
    assert torch.equal(one.step(sent, averaged)["w"], other.step(sent, averaged)["w"])
    assert torch.equal(one.handed_out(sent)["w"], other.handed_out(sent)["w"])
