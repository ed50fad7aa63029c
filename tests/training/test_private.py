"""DP-SGD: gradients of single images, drawing of patients, and one step by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nc_medfl.config import JobSettings, PrivateTraining
from nc_medfl.networks.backbones import ChannelsLast
from nc_medfl.settings import parse
from nc_medfl.training.methods import get_method
from nc_medfl.training.model import Network, build_network
from nc_medfl.training.private import (
    Sampling,
    draw_patients,
    gradients_by_image,
    obstacles,
    plan_sampling,
    train_privately,
)


def job(method: str = "fednca", queries: str = "fixed", **training: object) -> JobSettings:
    return parse(
        JobSettings,
        {
            "method": method,
            "network": {"backbone": "small", "norm": "group", "queries": queries},
            "loss": {"lambda_rejection": 0, "absent_from_global": 0},
            "training": {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0, **training},
        },
        where="test",
    ).for_sites()


def some_images(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(n, 14, generator=generator) < 0.3).float()
    targets[0, 3] = torch.nan
    return torch.rand(n, 1, 32, 32, generator=generator), targets


def one_by_one(network: Network, settings: JobSettings, image: Tensor, target: Tensor) -> list[dict[str, Tensor]]:
    """Gradients by plain autograd, each image a batch of its own: what torch.func must agree with."""
    loss_of = get_method(settings.method).build_loss(network, settings)
    found = []
    for n in range(len(image)):
        network.zero_grad()
        loss_of(network(image[n : n + 1]), target[n : n + 1])[0].backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    network.zero_grad()
    return found


def without_layouts(network: Network) -> Network:
    for layer in network.modules():
        if isinstance(layer, ChannelsLast):
            layer.enabled = False
    return network


@pytest.mark.parametrize(
    ("method", "queries"), [("fednca", "fixed"), ("fednca", "learned"), ("fednca", "mlp"), ("fedavg", "fixed")]
)
def test_gradients_of_single_images_are_those_of_autograd(method: str, queries: str) -> None:
    settings = job(method, queries)
    network = without_layouts(build_network(settings)).train()
    image, target = some_images(3)
    loss_of = get_method(settings.method).build_loss(network, settings)
    together = gradients_by_image(network, loss_of, image, target)
    for n, alone in enumerate(one_by_one(network, settings, image, target)):
        assert set(together) == set(alone)
        for name, value in alone.items():
            torch.testing.assert_close(
                together[name][n], value, rtol=1e-3, atol=1e-3, msg=lambda m, k=name: f"{k}: {m}"
            )


@pytest.mark.parametrize("method", ["fednca", "fedavg"])
def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_images_without_rejection(method: str) -> None:
    settings = job(method)
    network = build_network(settings).train()
    image, target = some_images(5)
    loss_of = get_method(method).build_loss(network, settings)
    with torch.no_grad():
        whole = loss_of(network(image), target)[0]
        alone = [loss_of(network(image[n : n + 1]), target[n : n + 1])[0] for n in range(5)]
    torch.testing.assert_close(whole, torch.stack(alone).mean())


def test_the_loss_with_rejection_is_no_such_mean_and_is_refused() -> None:
    settings = parse(
        JobSettings,
        {
            "network": {"backbone": "small", "norm": "group"},
            "loss": {"lambda_rejection": 1.0, "absent_from_global": 0.0},
        },
        where="test",
    )
    network = build_network(settings).train()
    image, target = some_images(5)
    target[1] = 0
    loss_of = get_method("fednca").build_loss(network, settings)
    with torch.no_grad():
        whole = loss_of(network(image), target)[0]
        alone = [loss_of(network(image[n : n + 1]), target[n : n + 1])[0] for n in range(5)]
    assert abs(float(whole - torch.stack(alone).mean())) > 1e-3
    assert obstacles(settings) == ["loss.lambda_rejection=0"]


def test_obstacles_name_the_setting_that_takes_them_away() -> None:
    assert obstacles(job()) == []
    wanted = parse(
        JobSettings,
        {"method": "scaffold", "training": {"precision": "mixed", "clip_norm": 1.0, "keep_optimizer": True}},
        where="test",
    )
    assert obstacles(wanted) == [
        "method=fednca or fedavg",
        "network.norm=group",
        "training.precision=float32",
        "training.clip_norm=null",
        "training.keep_optimizer=false",
    ]


def test_a_step_without_noise_is_the_mean_of_clipped_gradients() -> None:
    settings, limit = job("fedavg"), 0.5
    image, target = some_images(20)  # more than are held at once
    network, reference = build_network(settings), without_layouts(build_network(settings)).train()
    gradients = one_by_one(reference, settings, image, target)
    norms = [float(torch.cat([g.flatten() for g in one.values()]).norm()) for one in gradients]
    assert max(norms) > limit
    # By hand: each gradient shortened to the bound, added up, divided by the expected number, times the rate 0.1.
    expected = {
        name: value - 0.1 / 25 * sum(g[name] * min(1.0, limit / n) for g, n in zip(gradients, norms, strict=True))
        for name, value in reference.named_parameters()
    }
    # Noise of a millionth: Opacus is asked as in life.
    train_privately(
        network,
        lambda pieces: [{"image": image[rows], "label": target[rows]} for rows in pieces],
        settings,
        PrivateTraining(multiplier=1e-6, max_grad_norm=limit),
        steps=[np.arange(20)],
        expected=25.0,
        noise_seed=0,
    )
    for name, value in network.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
        assert not hasattr(value, "grad_sample")
    assert all(layer.enabled for layer in network.modules() if isinstance(layer, ChannelsLast))


def test_a_step_with_nobody_in_it_is_noise_of_the_stated_deviation() -> None:
    settings = job("fedavg")
    network, start = build_network(settings), build_network(settings).state_dict()
    train_privately(
        network,
        lambda pieces: [],
        settings,
        PrivateTraining(multiplier=3.0, max_grad_norm=2.0),
        steps=[np.array([], dtype=np.int64)],
        expected=10.0,
        noise_seed=0,
    )
    moved = torch.cat([(p.detach() - start[name]).flatten() for name, p in network.named_parameters()])
    # Rate 0.1, deviation 3 * 2, ten expected: 0.06.
    assert float(moved.std()) == pytest.approx(0.06, rel=0.02)


def test_noise_is_not_the_jobs_to_repeat() -> None:
    settings, found = job("fedavg"), []
    for _ in range(2):
        network = build_network(settings)
        nobody = [np.array([], dtype=np.int64)]
        train_privately(
            network, lambda pieces: [], settings, PrivateTraining(multiplier=1.0), steps=nobody, expected=1.0
        )
        found.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert not torch.equal(found[0], found[1])


def test_every_patient_is_drawn_alike_with_one_image_at_a_time() -> None:
    patients = np.array([0, 0, 0, 0, 1, 2, 2])
    rows = np.arange(100, 107)
    drawn = draw_patients(rows, patients, Sampling(0.3, 20_000), np.random.default_rng(0))
    of = dict(zip(rows.tolist(), patients.tolist(), strict=True))
    counts = np.zeros(3)
    for step in drawn:
        names = [of[row] for row in step.tolist()]
        assert len(names) == len(set(names))
        counts[names] += 1
    np.testing.assert_allclose(counts / len(drawn), 0.3, atol=0.015)
    images = np.bincount(np.concatenate(drawn) - 100, minlength=7) / len(drawn)
    np.testing.assert_allclose(images, [0.075, 0.075, 0.075, 0.075, 0.3, 0.15, 0.15], atol=0.012)


def test_a_round_shows_each_patient_as_often_as_it_has_epochs() -> None:
    assert plan_sampling(100, 32, 2) == Sampling(0.32, 8)
    assert plan_sampling(10, 32, 1) == Sampling(1.0, 1)
