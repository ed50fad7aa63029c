"""What FedBN, MOON, FedETF and FedNH add to local training, by hand and by their own claims."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.errors import UserError
from nc_medfl.federation.local import LocalFederation
from nc_medfl.networks import PooledNet, simplex_etf
from nc_medfl.settings import parse
from nc_medfl.training.methods import get_method
from nc_medfl.training.methods.fedbn import normalisation_names
from nc_medfl.training.methods.fednh import smoothed
from nc_medfl.training.methods.moon import model_contrast
from tests_support import tiny_site


def federation(folder: Path, method: str, **more: Any) -> LocalFederation:
    content = {"method": method, "rounds": 2, "network": {"backbone": "small"}, "training": {"lr": 1e-2}, **more}
    settings = parse(JobSettings, content, where="test")
    configs = {}
    for seed, name in enumerate(("a", "b")):
        store = tiny_site(folder / f"{name}-site", name, seed=seed, images=40)
        configs[name] = SiteConfig(name=name, store=store.folder, device="cpu")
    return LocalFederation(settings, configs, folder / "state")


def test_the_contrast_between_models_by_hand() -> None:
    # Image 1: cos 1 to the global, 0 to the old: -log(e^2 / (e^2 + 1)); image 2: 0 and 1: -log(1 / (1 + e^2)).
    now = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    globally = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    before = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert float(model_contrast(now, globally, before, 0.5)) == pytest.approx(expected, rel=1e-6)


def test_prototypes_move_by_the_mean_of_the_positives_by_hand() -> None:
    # Class 0: sum (0, 4) of 4 positives, mean direction (0, 1): 0.9 (1, 0) + 0.1 (0, 1). Class 1 has too few.
    old, sums = torch.eye(2), torch.tensor([[0.0, 4.0], [1.0, 0.0]])
    new = smoothed(old, sums, torch.tensor([4.0, 1.0]), rho=0.9, fewest=2)
    torch.testing.assert_close(new, torch.tensor([[0.9, 0.1], [0.0, 1.0]]))


def test_the_simplex_head_has_no_trained_or_saved_frame() -> None:
    network = PooledNet(4, "small", head="simplex")
    assert not any("frame" in name for name in (*network.state_dict(), *dict(network.named_parameters())))
    assert torch.equal(network.head.get_buffer("frame"), simplex_etf(4, network.backbone.channels))
    other = PooledNet(4, "small", head="simplex", frame_seed=1)
    assert network.fingerprint() != other.fingerprint()


def test_normalisation_stays_at_the_sites_and_all_else_is_averaged(tmp_path: Path) -> None:
    running = federation(tmp_path, "fedbn")
    first, second = running.rounds(score=False)
    names = normalisation_names(running.workers["a"].network)
    # Seven layers of five tensors: the stem, and in each of two blocks two and one in the shortcut.
    assert len(names) == 7 * 5
    for name in first.sent:
        sent = [update.params[name] for update in second.updates.values()]
        kept = all(torch.equal(value, first.sent[name]) for value in sent)
        assert kept == (name in names), name
    one, other = running.models(second.model)
    differing = {name for name in one if not torch.equal(one[name].float(), other[name].float())}
    assert differing <= names
    assert any(name.endswith("running_mean") for name in differing)


def test_a_network_without_batch_normalisation_is_refused_by_fedbn(tmp_path: Path) -> None:
    running = federation(tmp_path, "fedbn", network={"backbone": "small", "norm": "group"})
    with pytest.raises(UserError, match=r"Set network\.norm to batch"):
        next(running.rounds(score=False))


def weights(running: LocalFederation) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    rounds = list(running.rounds(score=False))
    return [done.updates["a"].losses for done in rounds], rounds[-1].model


def test_moon_without_a_weight_is_fedavg_and_has_its_term_from_the_second_round(tmp_path: Path) -> None:
    _, plain = weights(federation(tmp_path / "0", "fedavg"))
    _, none = weights(federation(tmp_path / "1", "moon", moon={"mu": 0.0}))
    assert all(torch.equal(plain[name], none[name]) for name in plain)
    losses, some = weights(federation(tmp_path / "2", "moon", moon={"mu": 5.0}))
    assert ["contrast" in one for one in losses] == [False, True]
    assert not all(torch.equal(plain[name], some[name]) for name in plain)


def test_no_gradient_moves_a_prototype_and_the_class_means_do(tmp_path: Path) -> None:
    running = federation(tmp_path, "fednh", fednh={"rho": 1.0})
    first, _ = running.rounds(score=False)
    torch.testing.assert_close(first.model["head.prototypes"], first.sent["head.prototypes"])
    running = federation(tmp_path / "moving", "fednh", fednh={"rho": 0.5})
    first, _ = running.rounds(score=False)
    assert not torch.allclose(first.model["head.prototypes"], first.sent["head.prototypes"])
    assert get_method("fednh").needs_class_means
