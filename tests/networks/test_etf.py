"""The simplex frame and the classifier on it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nc_medfl.errors import UserError
from nc_medfl.networks.class_attention import ClassQueryAttention
from nc_medfl.networks.etf import ETFClassifier, simplex_etf, tensor_fingerprint, unit_vectors

RECORDED_VALUES = [-0.0222344, 0.0640211, -0.0118359]
RECORDED_FINGERPRINT = "01fee79c19d7539be8ec950bc34e74f8d0a08f68ab5902664dfaddc2a77eab68"
SEEDS = st.none() | st.integers(0, 2**31 - 1)


def test_frame_of_three_classes_by_hand() -> None:
    # sqrt(3/2) = 1.224745; I - 11^T/3 has 2/3 on the diagonal and -1/3 off it.
    a, b = 1.224745 * 2 / 3, -1.224745 / 3
    expected = torch.tensor([[a, b, b, 0.0], [b, a, b, 0.0], [b, b, a, 0.0]])
    torch.testing.assert_close(simplex_etf(3, 4), expected, atol=1e-6, rtol=0)


def test_minimal_frame_of_three_classes_by_hand() -> None:
    # Helmert's basis of three: (1, -1, 0)/sqrt(2) and (1, 1, -2)/sqrt(6), times sqrt(3/2):
    # columns (0.866025, -0.866025, 0) and (0.5, 0.5, -1), the corners of an equilateral triangle.
    expected = torch.tensor([[0.866025, 0.5], [-0.866025, 0.5], [0.0, -1.0]])
    torch.testing.assert_close(simplex_etf(3, 2), expected, atol=1e-6, rtol=0)


@given(classes=st.integers(2, 80), extra=st.integers(-1, 40), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_every_frame_is_a_simplex(classes: int, extra: int, seed: int | None) -> None:
    frame = simplex_etf(classes, classes + extra, seed=seed)
    assert frame.shape == (classes, classes + extra)
    assert frame.dtype == torch.float32
    gram = frame.double().numpy() @ frame.double().numpy().T
    expected = np.full((classes, classes), -1 / (classes - 1))
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(gram, expected, atol=1e-6)
    np.testing.assert_allclose(frame.double().sum(dim=0).numpy(), 0, atol=1e-5)


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (2, 2), (14, 13), (14, 512), (80, 79), (80, 80), (80, 512)])
def test_frame_exists_from_one_dimension_below_the_classes(classes: int, dim: int) -> None:
    cosines = simplex_etf(classes, dim, seed=0).double()
    cosines = cosines @ cosines.T
    assert cosines.diagonal().sub(1).abs().max() < 1e-6
    assert cosines[~torch.eye(classes, dtype=torch.bool)].add(1 / (classes - 1)).abs().max() < 1e-6


@pytest.mark.parametrize(("classes", "dim"), [(1, 8), (0, 8), (14, 12), (80, 48)])
@pytest.mark.parametrize("kind", [ValueError, UserError])
def test_a_frame_that_cannot_be_is_refused_with_a_remedy(classes: int, dim: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"Set feature_dim to|Name more findings"):
        simplex_etf(classes, dim)


def test_a_negative_seed_is_told() -> None:
    with pytest.raises(UserError, match="Set frame_seed to 0 or more"):
        simplex_etf(3, 4, seed=-1)


def test_seeds_rotate_the_frame_and_leave_the_global_generators_alone() -> None:
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, again, two = simplex_etf(14, 64, seed=1), simplex_etf(14, 64, seed=1), simplex_etf(14, 64, seed=2)
    assert torch.equal(one, again)
    assert not torch.allclose(one, two)
    assert torch.equal(state, torch.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()  # noqa: NPY002
    # Unseeded, 50 of 64 channels are unused; rotated, no channel is.
    assert (simplex_etf(14, 64).abs().sum(dim=0) == 0).sum() == 50
    assert (one.abs().sum(dim=0) > 0.1).all()


def test_seeded_frame_agrees_with_a_qr_decomposition() -> None:
    # Gram-Schmidt on the rows is the QR decomposition of the transpose with a positive diagonal of R.
    draws = np.random.Generator(np.random.PCG64(5)).standard_normal((6, 20))
    q, r = np.linalg.qr(draws.T)
    rows = (q * np.sign(np.diag(r))).T
    expected = math.sqrt(6 / 5) * (np.eye(6) - np.ones((6, 6)) / 6) @ rows
    np.testing.assert_allclose(simplex_etf(6, 20, seed=5).numpy(), expected, atol=1e-6)


def test_seeded_frame_is_the_recorded_one() -> None:
    # Recorded on Linux x86-64: another platform or version that draws another frame would be refused by a
    # federation, so it has to be noticed here first.
    frame = simplex_etf(14, 96, seed=7)
    assert frame[0, :3].tolist() == pytest.approx(RECORDED_VALUES, abs=1e-6)
    assert tensor_fingerprint(frame) == RECORDED_FINGERPRINT


def test_fingerprint_sees_a_change_and_overlooks_the_last_bits() -> None:
    frame = simplex_etf(14, 96, seed=7)
    changed = frame.clone()
    changed[3, 5] += 1e-3
    assert tensor_fingerprint(frame.double()) == tensor_fingerprint(frame)
    assert tensor_fingerprint(changed) != tensor_fingerprint(frame)
    assert tensor_fingerprint(frame.reshape(96, 14)) != tensor_fingerprint(frame)


def test_cross_logits_by_hand() -> None:
    # Two classes in the plane: M = [[0.7071, -0.7071], [-0.7071, 0.7071]], scale 10, bias (0.5, -1).
    # Z1 = (1, 0):  <Z1, M1> = 0.7071, <Z1, M2> = -0.7071  ->  7.5711 and -8.0711
    # Z2 = (0, 2):  <Z2, M1> = -1.4142, <Z2, M2> = 1.4142  -> -13.6421 and 13.1421
    classifier = ETFClassifier(simplex_etf(2, 2))
    with torch.no_grad():
        classifier.bias.copy_(torch.tensor([0.5, -1.0]))
    got = classifier(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]))
    expected = torch.tensor([[[7.5711, -8.0711], [-13.6421, 13.1421]]])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_cross_logits_equal_a_loop_over_pairs() -> None:
    torch.manual_seed(0)
    classifier = ETFClassifier(simplex_etf(5, 8, seed=1), init_scale=3.0)
    nn.init.normal_(classifier.bias)
    features = torch.randn(4, 5, 8)
    got = classifier(features)
    for b in range(4):
        for c in range(5):
            for j in range(5):
                expected = 3.0 * float(features[b, c] @ classifier.frame[j]) + classifier.bias[j].item()
                assert got[b, c, j].item() == pytest.approx(expected, abs=1e-5)


def test_normalised_classifier_ignores_the_length_of_features() -> None:
    torch.manual_seed(0)
    classifier = ETFClassifier(simplex_etf(5, 8), normalise=True)
    features = torch.randn(2, 5, 8)
    torch.testing.assert_close(classifier(features), classifier(7 * features))
    assert classifier(features).abs().max() <= 10.0 + 1e-5


def test_classifier_keeps_full_precision_under_autocast() -> None:
    classifier = ETFClassifier(simplex_etf(5, 8))
    features = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = classifier(features)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, classifier(features), rtol=0, atol=0)


def test_classifier_gradients() -> None:
    classifier = ETFClassifier(simplex_etf(4, 6, seed=0).double())
    features = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(classifier, (features,))


def test_classifier_refuses_features_of_another_shape() -> None:
    with pytest.raises(ValueError, match="class features must be"):
        ETFClassifier(simplex_etf(4, 6))(torch.zeros(2, 5, 6))
    with pytest.raises(ValueError, match="frame must be"):
        ETFClassifier(torch.zeros(4))


def _classifier(frame: torch.Tensor) -> tuple[nn.Module, str]:
    return ETFClassifier(frame), "frame"


def _attention(frame: torch.Tensor) -> tuple[nn.Module, str]:
    return ClassQueryAttention(frame, num_heads=4), "class_queries"


@pytest.mark.parametrize("make", [_classifier, _attention])
def test_frame_and_fixed_queries_are_copied_and_can_neither_train_nor_travel(
    make: Callable[[torch.Tensor], tuple[nn.Module, str]],
) -> None:
    frame = simplex_etf(5, 8)
    before = frame.clone()
    module, name = make(frame)
    frame.zero_()
    assert torch.equal(getattr(module, name), before)
    assert name not in dict(module.named_parameters())
    assert name not in module.state_dict()
    module.requires_grad_(True)
    assert not getattr(module, name).requires_grad


def test_unit_vectors_of_zero_have_no_direction_and_no_gradient() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]], requires_grad=True)
    directions = unit_vectors(vectors)
    directions.sum().backward()
    torch.testing.assert_close(directions.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]))
    # d/dx of x/|x| + y/|x| at (3, 4): (16 - 12) / 125 and (9 - 12) / 125.
    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad, torch.tensor([[0.032, -0.024], [0.0, 0.0], [0.0, 0.0]]))
