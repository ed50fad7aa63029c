"""Local training: what decays, what is seeded, what is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nc_medfl.config import JobSettings
from nc_medfl.errors import UserError
from nc_medfl.labels import load_vocabulary
from nc_medfl.networks import FedNCANet
from nc_medfl.settings import parse
from nc_medfl.training.device import pick_device
from nc_medfl.training.model import build_network, fingerprints, load_model, save_model
from nc_medfl.training.trainer import parameter_groups, train_round

SMALL = {"network": {"backbone": "small"}, "training": {"lr": 1e-3}}
FEDNCA = parse(JobSettings, {**SMALL, "method": "fednca"}, where="test")
FEDAVG = parse(JobSettings, {**SMALL, "method": "fedavg"}, where="test")


def batches(epoch: int, count: int = 3) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(count):
        image = torch.rand(4, 1, 32, 32, generator=generator)
        yield {"image": image, "label": (torch.rand(4, 14, generator=generator) < 0.3).float()}


def test_biases_and_norm_weights_do_not_decay_and_the_rest_does() -> None:
    network = build_network(FEDNCA)
    norms = {
        id(p)
        for m in network.modules()
        if isinstance(m, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)
        for p in m.parameters()
    }
    biases = {id(p) for name, p in network.named_parameters() if name.endswith("bias")}
    decayed, plain = parameter_groups(network, 0.01)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert not {id(p) for p in decayed["params"]} & (norms | biases)
    assert norms | biases <= {id(p) for p in plain["params"]}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(network.parameters()))


def test_biases_of_one_class_each_do_not_decay_either() -> None:
    network = FedNCANet(5, "small", queries="mlp")
    decayed, _ = parameter_groups(network, 0.01)
    kept = {name for name, p in network.named_parameters() if any(p is d for d in decayed["params"])}
    reader = {name.rpartition(".")[2] for name in kept if name.startswith("class_attention.")}
    assert reader == {"weight_in", "weight_out"}


@pytest.mark.parametrize("settings", [FEDNCA, FEDAVG], ids=["fednca", "fedavg"])
def test_training_repeats_by_seed_and_leaves_the_global_generator_alone(settings: JobSettings) -> None:
    states = []
    for _ in range(2):
        network = build_network(settings)
        torch.manual_seed(len(states))
        before = torch.random.get_rng_state()
        result = train_round(network, batches, settings, round_number=0, seed=5)
        assert torch.equal(torch.random.get_rng_state(), before)
        states.append(network.state_dict())
    assert result.n_samples == 12
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_every_round_draws_other_batches() -> None:
    asked: list[int] = []

    def record(epoch: int) -> Iterator[dict[str, Tensor]]:
        asked.append(epoch)
        return batches(epoch)

    settings = FEDAVG.model_copy(update={"training": FEDAVG.training.model_copy(update={"local_epochs": 2})})
    network = build_network(settings)
    for number in range(3):
        train_round(network, record, settings, round_number=number, seed=0)
    assert asked == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("settings", [FEDNCA, FEDAVG], ids=["fednca", "fedavg"])
def test_training_lowers_the_loss_on_what_it_sees(settings: JobSettings) -> None:
    network = build_network(settings)
    first = train_round(network, lambda _epoch: batches(0), settings, round_number=0, seed=0)
    for number in range(1, 15):
        last = train_round(network, lambda _epoch: batches(0), settings, round_number=number, seed=0)
    assert last.losses["bce"] < 0.8 * first.losses["bce"]


def test_the_frame_is_the_same_after_training() -> None:
    network = build_network(FEDNCA)
    before = network.get_buffer("classifier.frame").clone()
    train_round(network, batches, FEDNCA, round_number=0, seed=0)
    assert torch.equal(network.get_buffer("classifier.frame"), before)


def test_bfloat16_autocast_trains_close_to_float32() -> None:
    mixed = FEDNCA.model_copy(update={"training": FEDNCA.training.model_copy(update={"precision": "mixed"})})
    losses = [train_round(build_network(s), batches, s, round_number=0, seed=0).losses for s in (FEDNCA, mixed)]
    assert losses[1]["bce"] == pytest.approx(losses[0]["bce"], rel=0.05)


def test_nothing_to_train_on_and_a_loss_that_diverges_are_told() -> None:
    with pytest.raises(UserError, match="no training images"):
        train_round(build_network(FEDNCA), lambda _epoch: [], FEDNCA, round_number=0, seed=0)
    wild = parse(JobSettings, {**SMALL, "training": {"lr": 1e30}}, where="test")
    with pytest.raises(UserError, match=r"not finite. Lower training.lr"):
        train_round(build_network(wild), batches, wild, round_number=0, seed=0)


def test_a_gpu_that_is_not_there_is_told_and_auto_takes_what_there_is() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="Set device: auto"):
        pick_device("cuda:99")


def test_a_model_file_comes_back_whole_and_an_altered_one_is_refused(tmp_path: Path) -> None:
    network = build_network(FEDNCA)
    train_round(network, batches, FEDNCA, round_number=0, seed=0)
    prints = fingerprints(network, load_vocabulary("nih14"))
    path = tmp_path / "model.pt"
    save_model(path, network.state_dict(), FEDNCA, rounds=1, prints=prints)
    again, settings, content = load_model(path)
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(again(image).logits, network.eval()(image).logits)
    assert settings == FEDNCA
    assert content["round"] == 1
    save_model(path, network.state_dict(), FEDNCA, rounds=1, prints={**prints, "frame": "0"})
    with pytest.raises(UserError, match="frame fingerprint differs"):
        load_model(path)
    state = network.state_dict()
    state.pop("classifier.bias")
    save_model(path, state, FEDNCA, rounds=1, prints=prints)
    with pytest.raises(UserError, match="weights do not fit"):
        load_model(path)
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match="not a model file"):
        load_model(path)
    with pytest.raises(UserError, match="no such model file"):
        load_model(tmp_path / "none.pt")


def test_a_model_file_from_before_a_setting_was_there_is_read_as_it_was_made(tmp_path: Path) -> None:
    # An older package knew no query_length; its queries were the rows of the frame, whatever is recommended today.
    settings = parse(JobSettings, {**SMALL, "network": {"backbone": "small", "query_length": "unit"}}, where="test")
    network = build_network(settings)
    path = tmp_path / "model.pt"
    prints = fingerprints(network, load_vocabulary("nih14"))
    save_model(path, network.state_dict(), settings, rounds=1, prints=prints)
    content = torch.load(path, weights_only=True)
    del content["settings"]["network"]["query_length"], content["settings"]["training"]["lr_schedule"]
    del content["settings"]["training"]["precision"]
    content["settings"]["training"]["amp"] = True
    torch.save(content, path)
    again, read, _ = load_model(path)
    assert torch.equal(again.get_buffer("class_attention.class_queries"), network.frame)
    assert (read.training.lr_schedule, read.training.precision) == ("constant", "mixed")
