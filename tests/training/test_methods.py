"""What FedProx and SCAFFOLD add to local training, on problems worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.federation.controls import first_controls, moved
from nc_medfl.federation.site_state import SiteState
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.settings import parse
from nc_medfl.training.methods import LocalMemory, get_method, join_extras, split_extras
from nc_medfl.training.methods.fedprox import ProximalRule
from nc_medfl.training.methods.scaffold import ScaffoldRule
from nc_medfl.training.model import build_network
from tests_support import tiny_site

RUN = "0123456789abcdef" * 2


class Point(nn.Module):
    """A single trained number ``w``, one that is frozen, and a buffer."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w]))
        self.frozen = nn.Parameter(torch.tensor([9.0]), requires_grad=False)
        self.register_buffer("seen", torch.tensor([4.0]))


def test_the_gradient_of_the_proximal_term_by_hand() -> None:
    # mu/2 ((3-1)^2 + (-2-2)^2) = 0.5/2 * 20 = 5; its gradient is mu (w - w_global) = (1, -2).
    network = nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([[1.0, 2.0]])
    rule = ProximalRule(network, mu=0.5)
    network.weight.data = torch.tensor([[3.0, -2.0]])
    term = rule.penalty()
    assert term is not None
    name, value = term
    value.backward()
    assert (name, float(value)) == ("proximal", 5.0)
    assert network.weight.grad is not None
    assert network.weight.grad.tolist() == [[1.0, -2.0]]


def test_the_proximal_term_leaves_out_what_is_not_trained() -> None:
    network = Point(1.0)
    rule = ProximalRule(network, mu=2.0)
    network.frozen.data += 5
    network.get_buffer("seen").add_(5)
    term = rule.penalty()
    assert term is not None
    assert float(term[1]) == 0.0


def local_steps(w: float, a: float, b: float, lr: float, steps: int, memory: LocalMemory) -> tuple[float, LocalMemory]:
    """A site with the loss a/2 (w - b)^2 makes some SGD steps by SCAFFOLD."""
    network = Point(w)
    rule = ScaffoldRule(network, lr, memory)
    optimizer = torch.optim.SGD([network.w], lr=lr)
    for _ in range(steps):
        loss = 0.5 * a * (network.w - b).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rule.after_step()
    return float(network.w), rule.finish()


def test_two_rounds_of_scaffold_on_two_quadratics_by_hand() -> None:
    # Site 1: 1/2 (w-1)^2, site 2: 3/2 (w+1)^2; lr 0.1, two steps, from w = 0, all controls 0.
    # Round 1. Site 1: 0 -> 0.1 -> 0.19; c_1 = (0 - 0.19) / (2 * 0.1) = -0.95.
    #          Site 2: 0 -> -0.3 -> -0.51; c_2 = 0.51 / 0.2 = 2.55.
    #          w = (0.19 - 0.51) / 2 = -0.16; c = (-0.95 + 2.55) / 2 = 0.8.
    # Round 2, site 1, gradient w - 1, correction c - c_1 = 1.75: -0.16 - 0.1 (-1.16 + 1.75) = -0.219;
    #          then -0.219 - 0.1 (-1.219 + 1.75) = -0.2721. c_1 = -1.75 + (-0.16 + 0.2721) / 0.2 = -1.1895.
    control = first_controls(Point(0.0))
    assert set(control) == {"w"}
    one, memory_1 = local_steps(0.0, 1.0, 1.0, 0.1, 2, LocalMemory(control))
    two, memory_2 = local_steps(0.0, 3.0, -1.0, 0.1, 2, LocalMemory(control))
    assert (one, two) == (pytest.approx(0.19), pytest.approx(-0.51))
    assert float(memory_1.kept["w"]) == pytest.approx(-0.95)
    assert float(memory_2.kept["w"]) == pytest.approx(2.55)
    control = moved(control, {"one": memory_1.received, "two": memory_2.received}, 2)
    assert float(control["w"]) == pytest.approx(0.8)
    one, memory_1 = local_steps(-0.16, 1.0, 1.0, 0.1, 2, LocalMemory(control, memory_1.kept))
    assert one == pytest.approx(-0.2721)
    assert float(memory_1.kept["w"]) == pytest.approx(-1.1895)
    assert float(memory_1.received["w"]) == pytest.approx(-1.1895 + 0.95)


def test_scaffold_reaches_the_common_minimum_that_plain_averaging_misses() -> None:
    # The mean of the two losses has its minimum where (w - 1) + 3 (w + 1) = 0: at w = -1/2. Averaging after ten local
    # steps of 0.1 rests where the sites' pulls balance: with r = 0.9^10 and s = 0.7^10 the fixed point of
    # w = ((1 + r (w - 1)) + (-1 + s (w + 1))) / 2 is (s - r) / (2 - r - s).
    sites = ((1.0, 1.0), (3.0, -1.0))
    r, s = 0.9**10, 0.7**10
    plain = 0.0
    for _ in range(60):
        plain = sum(local_steps(plain, a, b, 0.1, 10, LocalMemory())[0] for a, b in sites) / 2
    assert plain == pytest.approx((s - r) / (2 - r - s), abs=1e-4)
    w, control, kept = 0.0, first_controls(Point(0.0)), [{}, {}]
    for _ in range(200):
        done = [local_steps(w, a, b, 0.1, 10, LocalMemory(control, k)) for (a, b), k in zip(sites, kept, strict=True)]
        w, kept = sum(value for value, _ in done) / 2, [dict(memory.kept) for _, memory in done]
        control = moved(control, {str(i): memory.received for i, (_, memory) in enumerate(done)}, 2)
    assert w == pytest.approx(-0.5, abs=1e-4)
    assert abs(plain + 0.5) > 0.1


def test_a_site_that_did_not_answer_counts_with_no_change() -> None:
    control = {"w": torch.tensor([1.0])}
    assert float(moved(control, {"a": {"w": torch.tensor([3.0])}}, 4)["w"]) == 1.75
    assert float(moved(control, {}, 4)["w"]) == 1.0


def test_what_travels_beside_a_model_comes_apart_again() -> None:
    model, extras = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    assert split_extras(join_extras(model, extras)) == (model, extras)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_relaunch_between_rounds_loses_no_control_variate(tmp_path: Path, optimizer: str) -> None:
    content = {
        "method": "scaffold",
        "network": {"backbone": "small"},
        "training": {"optimizer": optimizer, "lr": 1e-3, "weight_decay": 0.0},
    }
    settings = parse(JobSettings, content, where="test").for_sites()
    store = tiny_site(tmp_path / "site", "a", images=40)
    config = SiteConfig(name="a", store=store.folder, device="cpu")

    def two_rounds(folder: Path, *, relaunch: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        worker = SiteWorker(settings, config, SiteState(folder, RUN))
        start = {name: value.clone() for name, value in worker.network.state_dict().items()}
        zeros = first_controls(worker.network)
        first = worker.train(join_extras(start, zeros), 0)
        if relaunch:
            worker = SiteWorker(settings, config, SiteState(folder, RUN))
        second = worker.train(join_extras(first.params, zeros), 1)
        return second.params, dict(second.extras)

    (one, change), (other, same_change) = (
        two_rounds(tmp_path / "one", relaunch=False),
        two_rounds(tmp_path / "other", relaunch=True),
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(change[name], same_change[name]) for name in change)
    assert set(change) == set(first_controls(SiteWorker(settings, config).network))


@pytest.mark.parametrize("mu", [0.0, 10.0])
def test_fedprox_without_a_pull_is_fedavg_and_stays_nearer_with_one(tmp_path: Path, mu: float) -> None:
    store = tiny_site(tmp_path, "a", images=40)
    content = {"network": {"backbone": "small"}, "training": {"lr": 1e-3, "local_epochs": 3}, "fedprox": {"mu": mu}}
    trained = []
    for method in ("fedavg", "fedprox"):
        settings = parse(JobSettings, {**content, "method": method}, where="test").for_sites()
        worker = SiteWorker(settings, SiteConfig(name="a", store=store.folder, device="cpu"))
        start = {name: value.clone() for name, value in worker.network.named_parameters()}
        update = worker.train({k: v.clone() for k, v in worker.network.state_dict().items()}, 0)
        moved_by = sum(float((update.params[name] - value).square().sum()) for name, value in start.items())
        trained.append((update, moved_by))
    (plain, far), (pulled, near) = trained
    assert get_method("fedprox").title == "FedProx"
    if mu == 0:
        assert all(torch.equal(plain.params[name], pulled.params[name]) for name in plain.params)
        assert pulled.losses["proximal"] == 0
    else:
        assert near < far
        assert pulled.losses["proximal"] > 0


def test_our_default_sends_no_byte_more_than_the_published_method() -> None:
    sizes = []
    for compatible in (False, True):
        network = build_network(JobSettings(paper_compat=compatible, network={"backbone": "small"}))
        sizes.append({name: (value.dtype, value.shape) for name, value in network.state_dict().items()})
    assert sizes[0] == sizes[1]
