"""The method's network and the baseline's."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from torch import nn

from nc_medfl.losses import FedNCALoss
from nc_medfl.networks import FedNCANet, PooledNet, class_parameters, simplex_etf


def small(**arguments: Any) -> FedNCANet:
    return FedNCANet(**{"num_classes": 5, "backbone": "small", **arguments})


def images(count: int = 4, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("queries", ["fixed", "learned", "from_frame", "mlp"])
@pytest.mark.parametrize("feature_dim", [None, 16])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_shapes_of_every_variant(queries: str, feature_dim: int | None, norm: str) -> None:
    network = small(queries=queries, feature_dim=feature_dim, norm=norm)
    output = network(images(3, 40))
    dim, heads = feature_dim or 96, 1 if queries == "mlp" else 4
    assert output.logits.shape == (3, 5)
    assert output.cross_logits.shape == (3, 5, 5)
    assert output.class_features.shape == (3, 5, dim)
    assert output.attention.shape == (3, heads, 5, 25)
    assert network.feature_map_size(40, 40) == (5, 5)
    assert network.attention_maps(output, (40, 40)).shape == (3, heads, 5, 5, 5)


def test_predictions_are_the_diagonal_of_the_comparison_with_the_frame() -> None:
    network = small(frame_seed=1)
    with torch.no_grad():
        network.classifier.bias.copy_(torch.arange(5.0))
        output = network(images())
    features, frame = output.class_features, simplex_etf(5, 96, seed=1)
    for c in range(5):
        torch.testing.assert_close(output.logits[:, c], 10 * features[:, c] @ frame[c] + c, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.logits, torch.stack([output.cross_logits[:, c, c] for c in range(5)], dim=1))


@pytest.mark.parametrize("classes", [2, 80])
def test_few_and_many_classes_train(classes: int) -> None:
    network = small(num_classes=classes)
    targets = (torch.rand(4, classes, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    output = network(images())
    FedNCALoss(network.frame)(output.cross_logits, output.class_features, targets).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("queries", ["fixed", "learned", "from_frame", "mlp"])
def test_frame_and_fixed_queries_are_bit_identical_after_training_and_a_round_trip(queries: str) -> None:
    network = small(queries=queries, frame_seed=3)
    network.requires_grad_(True)  # what un-freezes a frame that is a parameter
    before, prints = simplex_etf(5, 96, seed=3), (network.fingerprint(), network.frame_fingerprint())
    moved = {name: p.detach().clone() for name, p in network.named_parameters()}
    loss = FedNCALoss(network.frame)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.5)
    targets = torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, float("nan")], [0, 0, 0, 0, 0], [0, 0, 1, 0, 1]])
    for step in range(50):
        output = network(images(seed=step % 3))
        optimizer.zero_grad()
        loss(output.cross_logits, output.class_features, targets).total.backward()
        optimizer.step()
    assert torch.equal(network.frame, before)
    if queries == "fixed":
        assert torch.equal(network.class_attention.class_queries, before)
    assert (network.fingerprint(), network.frame_fingerprint()) == prints
    assert all(not torch.equal(p, moved[name]) for name, p in network.named_parameters())

    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    other = small(queries=queries, frame_seed=3, init_seed=9)
    state = torch.load(buffer, weights_only=True)
    assert not any("frame" in name for name in state)
    assert ("class_attention.class_queries" in state) == (queries in ("learned", "from_frame"))
    other.load_state_dict(state)
    assert torch.equal(other.frame, before)
    for got, want in zip(other.eval()(images()), network.eval()(images()), strict=True):
        torch.testing.assert_close(got, want)


def test_learned_queries_start_at_random_or_at_the_frame() -> None:
    frame = simplex_etf(5, 96)
    assert torch.equal(small(queries="from_frame").class_attention.class_queries.detach(), frame)
    learned = small(queries="learned").class_attention.class_queries.detach()
    assert not torch.allclose(learned, frame, atol=0.05)
    assert 0.7 < learned.norm(dim=1).mean() < 1.3


def test_weights_come_from_their_own_seed() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = small()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    same, other, drawn = small(), small(init_seed=1), small(init_seed=None)
    pairs = zip(one.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.backbone.features.conv1.weight, other.backbone.features.conv1.weight)
    assert not torch.equal(one.backbone.features.conv1.weight, drawn.backbone.features.conv1.weight)


def test_baseline_starts_from_the_same_backbone() -> None:
    network, baseline = small(init_seed=4), PooledNet(5, "small", init_seed=4)
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(baseline.backbone.state_dict()[name], value)


def test_fingerprint_tells_every_difference_of_make() -> None:
    networks = [
        small(),
        small(num_classes=6),
        small(in_channels=3),
        small(feature_dim=16),
        small(norm="group"),
        small(num_heads=2),
        small(queries="learned"),
        small(queries="from_frame"),
        small(queries="mlp"),
        small(query_length="sqrt_dim"),
        small(position_code=True),
        small(normalise_features=True),
        small(frame_seed=1),
        small(frame_seed=2),
        FedNCANet(5, "resnet18"),
    ]
    prints = [network.fingerprint() for network in networks]
    assert len(set(prints)) == len(prints)
    assert all(len(text) == 64 and int(text, 16) >= 0 for text in prints)
    assert networks[0].frame_fingerprint() == networks[4].frame_fingerprint()
    assert networks[0].frame_fingerprint() != networks[12].frame_fingerprint()


def test_fingerprint_overlooks_weights_and_names_their_default() -> None:
    network = small()
    same = [small(init_seed=3), small(init_scale=5.0), small(feature_dim=96)]
    assert {n.fingerprint() for n in same} == {network.fingerprint()}


@pytest.mark.parametrize("where", ["classifier.frame", "class_attention.class_queries"])
def test_fingerprint_guards_frame_and_fixed_queries(where: str) -> None:
    network = small()
    before = network.fingerprint()
    network.get_buffer(where)[0, 0] += 0.001
    assert network.fingerprint() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 100}, "Set feature_dim to 100 or more"),
        ({"num_classes": 1}, "2 classes or more"),
        ({"num_heads": 5}, "no multiple of num_heads 5"),
        ({"queries": "random"}, "there are: fixed, learned, from_frame, mlp"),
        ({"query_length": "long"}, "there are: unit, sqrt_dim"),
        ({"backbone": "vgg"}, "there are: small"),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_remedy(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)


@pytest.mark.parametrize(("length", "expected"), [("unit", 1.0), ("sqrt_dim", 4.0)])
def test_queries_are_the_rows_of_the_frame_at_the_length_asked_for(length: str, expected: float) -> None:
    # The root of 16 channels is 4; the frame that classifies keeps its unit rows.
    network = small(feature_dim=16, query_length=length)
    queries = network.get_buffer("class_attention.class_queries")
    assert torch.allclose(queries.norm(dim=1), torch.full((5,), expected))
    assert torch.allclose(queries / expected, network.frame)
    assert torch.allclose(network.frame.norm(dim=1), torch.ones(5))
    assert "class_attention.class_queries" not in network.state_dict()


def test_more_classes_than_channels_go_with_a_wider_projection() -> None:
    assert small(num_classes=100, feature_dim=100)(images()).logits.shape == (4, 100)


def test_arguments_are_json() -> None:
    arguments = json.loads(json.dumps({"num_classes": 5, "backbone": "small", "frame_seed": None, "init_seed": 0}))
    assert FedNCANet(**arguments).fingerprint() == small().fingerprint()


def test_training_under_autocast_gives_finite_gradients() -> None:
    network = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images())
        total = FedNCALoss(network.frame)(output.cross_logits, output.class_features, torch.eye(5)[:4]).total
    total.backward()
    assert total.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# ---- the baseline, and what both say of themselves ----


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_baseline_pools_and_classifies(head: str) -> None:
    network = PooledNet(5, "small", head=head).eval()
    x = images()
    with torch.no_grad():
        pooled = network.backbone(x).flatten(2).mean(dim=2)
        if head == "mlp":
            pooled = nn.functional.layer_norm(pooled, (96,))
            pooled = nn.functional.gelu(pooled @ network.head.hidden.weight.T + network.head.hidden.bias)
        expected = pooled @ network.head.output.weight.T + network.head.output.bias
        torch.testing.assert_close(network(x).logits, expected)


def test_baseline_fingerprint_tells_its_make_and_not_its_weights() -> None:
    makes = [PooledNet(5, "small"), PooledNet(6, "small"), PooledNet(5, "small", head="mlp")]
    makes.append(PooledNet(5, "small", norm="group"))
    assert len({network.fingerprint() for network in makes} | {small().fingerprint()}) == 5
    assert PooledNet(5, "small", init_seed=8).fingerprint() == makes[0].fingerprint()


def test_baseline_refuses_an_unknown_head_and_no_class() -> None:
    with pytest.raises(ValueError, match="there are: linear, mlp"):
        PooledNet(5, "small", head="conv")
    with pytest.raises(ValueError, match="1 class or more"):
        PooledNet(0, "small")


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (small(), {"classifier.bias"}),
        (small(queries="learned"), {"classifier.bias", "class_attention.class_queries"}),
        (small(queries="from_frame"), {"classifier.bias", "class_attention.class_queries"}),
        (
            small(queries="mlp"),
            {"classifier.bias"} | {f"class_attention.{n}_{w}" for n in ("weight", "bias") for w in ("in", "out")},
        ),
        (PooledNet(5, "small"), {"head.output.weight", "head.output.bias"}),
        (PooledNet(5, "small", head="mlp"), {"head.output.weight", "head.output.bias"}),
    ],
)
def test_class_parameters_are_those_with_a_row_a_class(network: nn.Module, expected: set[str]) -> None:
    axes = class_parameters(network)
    assert set(axes) == expected
    parameters = dict(network.named_parameters())
    assert all(parameters[name].shape[axis] == 5 for name, axis in axes.items())
    # No other parameter has a side of 5 = the number of classes.
    assert all(5 not in p.shape for name, p in parameters.items() if name not in axes)


@pytest.mark.parametrize("changes", [{}, {"queries": "mlp"}, {"normalise_features": True}, {"frame_seed": 3}])
def test_predictions_alone_are_the_logits(changes: dict[str, Any]) -> None:
    network = FedNCANet(14, "small", num_heads=4, **changes).eval()
    torch.nn.init.normal_(network.classifier.bias)
    image = torch.rand(3, 1, 64, 64)
    torch.testing.assert_close(network.predictions(image), network(image).logits, rtol=1e-4, atol=1e-4)


def test_a_learned_frame_starts_at_the_simplex_is_trained_and_belongs_to_classes() -> None:
    network = small(learned_frame=True)
    assert torch.equal(network.frame, simplex_etf(5, 96))
    assert "classifier.frame" in network.state_dict()
    assert class_parameters(network)["classifier.frame"] == 0
    before = network.fingerprint()
    assert before != small().fingerprint()
    targets = torch.eye(5)[:4]
    output = network(images())
    loss = FedNCALoss(network.frame, lambda_rejection=0.0)
    loss(output.cross_logits, output.class_features, targets, network.frame).contrast.backward()
    assert network.frame.grad is not None
    assert network.frame.grad.abs().sum() > 0
    with torch.no_grad():
        network.frame.add_(1.0)
    assert network.fingerprint() == before
