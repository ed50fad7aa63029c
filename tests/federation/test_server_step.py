"""The server's own step and the mean of late models, on numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nc_medfl.config import AggregationSettings
from nc_medfl.errors import RunFailed
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


@pytest.mark.parametrize("optimizer", ["none", "momentum", "adam"])
def test_a_server_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, optimizer: str) -> None:
    rules = AggregationSettings.model_validate({"server_optimizer": optimizer, "average_last": 3})
    one, other = ServerStep(rules, ["w"]), ServerStep(rules, ["w"])
    for value in (1.0, 4.0, 2.0, 7.0):
        one.step({"w": torch.tensor([0.5])}, {"w": torch.tensor([value]), "n": torch.tensor(int(value))})
        one.write(tmp_path)
    other.read(tmp_path)
    sent, averaged = {"w": torch.tensor([2.0])}, {"w": torch.tensor([2.5]), "n": torch.tensor(9)}
    for _ in range(2):
        assert torch.equal(one.step(sent, averaged)["w"], other.step(sent, averaged)["w"])
        assert all(torch.equal(one.handed_out(sent)[name], other.handed_out(sent)[name]) for name in averaged)


def test_the_disk_keeps_the_models_of_the_mean_and_no_more(tmp_path: Path) -> None:
    server = ServerStep(AggregationSettings(server_optimizer="momentum", average_last=2), ["w"])
    # Of a run that was killed after it had written them.
    (tmp_path / "server_model_9.safetensors").write_bytes(b"stale")
    for value in (1.0, 4.0, 2.0):
        server.step({"w": torch.zeros(1)}, {"w": torch.tensor([value])})
        server.write(tmp_path)
    kept = ["server_model_2.safetensors", "server_model_3.safetensors", "server_state.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    assert sorted(path.name for path in server.files(tmp_path)) == kept


def test_a_damaged_state_ends_in_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    server = ServerStep(AggregationSettings(average_last=2), ["w"])
    assert server.files(tmp_path) == []
    server.step({}, {"w": torch.ones(1)})
    server.write(tmp_path)
    (tmp_path / "server_model_1.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunFailed, match="Start the job afresh"):
        server.read(tmp_path)


def test_a_step_leaves_what_it_was_given_alone() -> None:
    server = ServerStep(AggregationSettings(server_optimizer="momentum"), ["w"])
    for _ in range(2):
        before, average = torch.tensor([1.0], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
        model = server.step({"w": before}, {"w": average})
        assert (float(before), float(average)) == (1.0, 3.0)
        kept = float(model["w"])
        server.step({"w": before}, {"w": average})
        assert float(model["w"]) == kept
