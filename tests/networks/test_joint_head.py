"""The head as one operation: torch's own derivatives of its parts, and finite differences, say whether it is right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nc_medfl.networks.class_attention import ClassQueryAttention
from nc_medfl.networks.etf import ETFClassifier, simplex_etf
from nc_medfl.networks.fednca import FedNCANet
from nc_medfl.networks.joint_head import can_join, read, read_and_classify


def head(
    classes: int, dim: int, heads: int, *, learned: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[ClassQueryAttention, ETFClassifier]:
    torch.manual_seed(classes)
    frame = simplex_etf(classes, dim, seed=1).to(dtype)
    reader, classifier = ClassQueryAttention(frame, heads, learned=learned), ETFClassifier(frame, learned=learned)
    for parameter in (*reader.parameters(), *classifier.parameters()):
        nn.init.normal_(parameter, std=0.3)
    return reader, classifier


def joined(reader: ClassQueryAttention, classifier: ETFClassifier, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return read_and_classify(
        reader.attention, reader.class_queries, x, classifier.frame, classifier.scale, classifier.bias
    )


def apart(reader: ClassQueryAttention, classifier: ETFClassifier, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    features, weights = reader(x)
    return features, weights, classifier(features)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])  # of class features that something looks at besides the classifier
@pytest.mark.parametrize(("classes", "dim", "heads", "side"), [(2, 8, 2, 1), (5, 32, 4, 3), (14, 64, 4, 7)])
def test_values_and_gradients_are_those_of_the_parts(
    classes: int, dim: int, heads: int, side: int, share: float, learned: bool
) -> None:
    reader, classifier = head(classes, dim, heads, learned=learned)
    x = torch.randn(3, dim, side, side + 1, dtype=torch.float64, requires_grad=True)
    found = []
    for way in (joined, apart):
        outputs = way(reader, classifier, x)
        rng = torch.Generator().manual_seed(1)
        weigh = [torch.randn(o.shape, generator=rng, dtype=torch.float64) for o in outputs]
        weigh[0] *= torch.rand(3, classes, 1, generator=rng) < share
        total = sum((o * w).sum() for o, w in zip(outputs, weigh, strict=True))
        assert isinstance(total, Tensor)
        found.append(
            [*outputs, *torch.autograd.grad(total, [x, *reader.parameters(), *classifier.parameters()])],
        )
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2)])
def test_gradient_is_the_finite_difference(which: tuple[int, ...]) -> None:
    reader, classifier = head(3, 8, 2)
    x = torch.randn(2, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = [*reader.parameters(), *classifier.parameters()]

    def outputs(x: Tensor, *_parameters: Tensor) -> tuple[Tensor, ...]:
        return tuple(joined(reader, classifier, x)[at] for at in which)

    assert torch.autograd.gradcheck(outputs, (x, *parameters))


def test_the_network_trains_by_it_and_by_its_parts_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for join in (True, False):
        if not join:
            monkeypatch.setattr("nc_medfl.networks.joint_head.can_join", lambda *_: False)
        network = FedNCANet(5, "small", init_seed=3)
        output = network(torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
        (output.cross_logits.square().mean() + output.class_features[:, 1].square().mean()).backward()
        found.append([*output, *(p.grad for p in network.parameters())])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_where_it_does_not_apply_the_parts_are_taken() -> None:
    reader, classifier = head(5, 32, 4, dtype=torch.float32)
    x = torch.randn(3, 32, 4, 4)
    parts = reader.attention, reader.class_queries, x
    assert can_join(*parts)
    with torch.no_grad():
        assert not can_join(*parts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_join(*parts)
        assert read(reader, classifier, x)[2].isfinite().all()
    assert not can_join(reader.attention, reader.class_queries, x.bfloat16())
    # 80 findings, 32 channels: the gradient of the cross logits has full rank.
    assert not can_join(reader.attention, torch.randn(80, 32), x)

    def total(one: Tensor) -> Tensor:
        assert not can_join(reader.attention, reader.class_queries, one[None])
        return read(reader, classifier, one[None])[2].sum()

    each = torch.func.vmap(torch.func.grad(total))(x)
    x.requires_grad_(True)
    (together,) = torch.autograd.grad(read(reader, classifier, x)[2].sum(), x)
    torch.testing.assert_close(each, together, rtol=1e-4, atol=1e-5)
