"""Collapse from counts and sums, against the same from the raw features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nc_medfl.metrics.collapse import ClassStatistics, class_statistics, collapse_metrics
from nc_medfl.networks.etf import simplex_etf

NAN = math.nan


def slow_collapse(features: Tensor, targets: Tensor, frame: Tensor, min_positives: int = 1) -> dict[str, object]:
    """METHOD section 6 from raw features: full covariance matrices, loops over classes and pairs."""
    z = features.double().numpy()
    z = z / np.linalg.norm(z, axis=2, keepdims=True)
    y, m = targets.numpy(), frame.double().numpy()
    positives = {c: z[y[:, c] == 1, c] for c in range(y.shape[1]) if (y[:, c] == 1).sum() >= min_positives}
    ncpn = []
    for c in range(y.shape[1]):
        negatives = z[y[:, c] == 0, c]
        if c not in positives or not len(negatives):
            ncpn.append(NAN)
            continue
        spread = sum(np.trace(np.cov(part.T, bias=True).reshape(z.shape[2], -1)) for part in (positives[c], negatives))
        ncpn.append(spread / np.sum((positives[c].mean(axis=0) - negatives.mean(axis=0)) ** 2))
    kept = sorted(positives)
    within = sum(np.cov(positives[c].T, bias=True).reshape(z.shape[2], -1) for c in kept) / len(kept)
    means = {c: positives[c].mean(axis=0) for c in kept}
    centre = sum(means.values()) / len(kept)
    offset = {c: means[c] - centre for c in kept}
    between = sum(np.outer(offset[c], offset[c]) for c in kept) / len(kept)

    def cos(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))

    angles = [abs(cos(offset[a], offset[b]) + 1 / (len(kept) - 1)) for a in kept for b in kept if a != b]
    lengths = [math.sqrt(offset[c] @ offset[c]) for c in kept]
    middle = sum(m[c] for c in kept) / len(kept)
    return {
        "nc1": np.trace(within) / np.trace(between),
        "nc2_angle": np.mean(angles),
        "nc2_length": np.std(lengths) / np.mean(lengths),
        "nc3": np.mean([cos(offset[c], m[c] - middle) for c in kept]),
        "ncpn": ncpn,
        "n_classes": len(kept),
    }


def random_batch(images: int, classes: int, dim: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    targets = (torch.rand(images, classes, generator=rng) < 0.4).float()
    frame = simplex_etf(classes, dim, seed=seed)
    features = torch.randn(images, classes, dim, generator=rng) + 2 * targets[..., None] * frame
    targets[torch.rand(images, classes, generator=rng) < 0.2] = NAN
    return features, targets, frame


@given(
    images=st.integers(6, 30),
    classes=st.integers(2, 8),
    extra=st.integers(0, 4),
    seed=st.integers(0, 10_000),
    min_positives=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_metrics_from_sums_equal_those_from_raw_features(
    images: int, classes: int, extra: int, seed: int, min_positives: int
) -> None:
    features, targets, frame = random_batch(images, classes, classes + extra, seed)
    got = collapse_metrics(class_statistics(features, targets), frame, min_positives)
    enough = int(((targets == 1).sum(dim=0) >= min_positives).sum())
    assert got.n_classes == enough
    if enough < 2:
        assert all(math.isnan(v) for v in (got.nc1, got.nc2_angle, got.nc2_length, got.nc3))
        return
    expected = slow_collapse(features, targets, frame, min_positives)
    for name in ("nc1", "nc2_angle", "nc2_length", "nc3"):
        assert getattr(got, name) == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name
    np.testing.assert_allclose(got.ncpn.numpy(), np.array(expected["ncpn"]), rtol=1e-6, atol=1e-12, equal_nan=True)


def test_metrics_by_hand() -> None:
    # Two classes in the plane. Positives of class 1: (1,0) twice -> mean (1,0), variance 0.
    # Positives of class 2: (0,1) and (0,-1) -> mean (0,0), variance 1. Centre (0.5, 0), offsets (+-0.5, 0).
    # NC1 = mean(0, 1) / mean(0.25, 0.25) = 0.5 / 0.25 = 2. NC2: cosine -1 = -1/(2-1) -> 0; lengths 0.5, 0.5 -> 0.
    # NC3: M = +-(0.7071, -0.7071), cosine with (+-1, 0) = 0.7071.
    # Negatives of class 1: (-1,0): variance 0, distance 2 -> NCpn (0 + 0) / 4 = 0.
    # Negatives of class 2: (1,0): variance 0, squared distance 1 -> NCpn (1 + 0) / 1 = 1.
    features = torch.tensor(
        [[[5.0, 0.0], [0.0, 3.0]], [[0.1, 0.0], [0.0, -2.0]], [[-7.0, 0.0], [4.0, 0.0]]],
    )
    targets = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    stats = class_statistics(features, targets)
    assert stats.counts.tolist() == [[2, 2], [1, 1]]
    assert stats.sums.tolist() == [[[2, 0], [0, 0]], [[-1, 0], [1, 0]]]
    got = collapse_metrics(stats, simplex_etf(2, 2))
    assert (got.nc1, got.nc2_angle, got.nc2_length) == pytest.approx((2.0, 0.0, 0.0), abs=1e-12)
    assert got.nc3 == pytest.approx(0.707107, abs=1e-6)
    assert got.ncpn.tolist() == pytest.approx([0.0, 1.0], abs=1e-12)


def test_full_collapse_onto_the_frame_is_perfect() -> None:
    frame = simplex_etf(6, 9, seed=1)
    got = collapse_metrics(class_statistics(3 * frame.repeat(4, 1, 1), torch.ones(4, 6)), frame)
    assert (got.nc1, got.nc2_angle, got.nc2_length) == pytest.approx((0, 0, 0), abs=1e-6)
    assert got.nc3 == pytest.approx(1.0, abs=1e-6)
    assert got.ncpn.isnan().all()  # without negatives there is no distance


def test_collapse_onto_a_part_of_the_frame_is_perfect_too() -> None:
    # M is recentred over the classes that have positives.
    frame = simplex_etf(6, 9, seed=1)
    targets = torch.tensor([[1.0, 1, 1, 0, NAN, 0]] * 4)
    got = collapse_metrics(class_statistics(frame.repeat(4, 1, 1), targets), frame)
    assert got.n_classes == 3
    assert (got.nc1, got.nc2_angle, got.nc3) == pytest.approx((0, 0, 1), abs=1e-6)


def test_statistics_of_parts_add_up_to_those_of_the_whole() -> None:
    features, targets, _ = random_batch(20, 5, 8, seed=0)
    whole = class_statistics(features, targets)
    parts = ClassStatistics.empty(5, 8) + class_statistics(features[:7], targets[:7])
    parts = parts + class_statistics(features[7:], targets[7:])
    assert whole.sums.dtype == whole.counts.dtype == torch.float64
    torch.testing.assert_close(parts.counts, whole.counts)
    torch.testing.assert_close(parts.sums, whole.sums)


def test_statistics_equal_a_loop_over_pairs() -> None:
    features, targets, _ = random_batch(12, 4, 6, seed=2)
    counts, sums = np.zeros((2, 4)), np.zeros((2, 4, 6))
    for b in range(12):
        for c in range(4):
            if not math.isnan(targets[b, c].item()):
                kind = 0 if targets[b, c] == 1 else 1
                z = features[b, c].double().numpy()
                counts[kind, c] += 1
                sums[kind, c] += z / np.sqrt((z * z).sum())
    stats = class_statistics(features, targets)
    np.testing.assert_array_equal(stats.counts.numpy(), counts)
    np.testing.assert_allclose(stats.sums.numpy(), sums, rtol=1e-12, atol=1e-12)


def test_unknown_pairs_and_zero_features_take_no_part() -> None:
    features = torch.ones(3, 2, 4)
    features[0, 0] = NAN
    features[1, 1] = 0
    targets = torch.tensor([[NAN, 1.0], [0.0, 1.0], [0.0, 0.0]])
    stats = class_statistics(features, targets)
    assert stats.counts.tolist() == [[0, 1], [2, 1]]
    assert stats.sums.isfinite().all()
    assert stats.sums[1, 0].tolist() == pytest.approx([1.0] * 4)


def test_statistics_carry_no_gradient() -> None:
    features = torch.ones(2, 3, 4, requires_grad=True)
    assert not class_statistics(features, torch.ones(2, 3)).sums.requires_grad


def test_equal_means_are_undefined_and_not_infinite() -> None:
    features = torch.ones(4, 3, 4)
    targets = torch.tensor([[1.0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]])
    got = collapse_metrics(class_statistics(features, targets), simplex_etf(3, 4))
    assert all(math.isnan(v) for v in (got.nc1, got.nc2_angle, got.nc2_length, got.nc3))
    assert got.ncpn.isnan().all()


@pytest.mark.parametrize("known", [0, 1])
def test_fewer_than_two_classes_with_positives_are_undefined(known: int) -> None:
    features, _, frame = random_batch(6, 4, 5, seed=0)
    targets = torch.zeros(6, 4)
    targets[:3, :known] = 1
    got = collapse_metrics(class_statistics(features, targets), frame)
    assert got.n_classes == known
    assert all(math.isnan(v) for v in (got.nc1, got.nc2_angle, got.nc2_length, got.nc3))
    assert got.ncpn.isnan().tolist() == [c >= known for c in range(4)]


def test_nothing_at_all_is_undefined() -> None:
    got = collapse_metrics(ClassStatistics.empty(4, 5), simplex_etf(4, 5))
    assert got.n_classes == 0
    assert math.isnan(got.nc1)
    assert got.ncpn.isnan().all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="counts"):
        ClassStatistics(torch.zeros(2, 3), torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match="must be"):
        class_statistics(torch.zeros(2, 3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="must be"):
        collapse_metrics(ClassStatistics.empty(3, 4), simplex_etf(3, 5))
    with pytest.raises(ValueError, match="shapes"):
        ClassStatistics.empty(3, 4) + ClassStatistics.empty(3, 5)


def test_the_classes_own_nc1_and_alignment_have_the_overall_ones_as_their_means() -> None:
    features = torch.randn(60, 5, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    targets = (torch.rand(60, 5, generator=torch.Generator().manual_seed(4)) < 0.4).double()
    targets[:, 2] = 0.0  # a class without a positive has neither
    frame = torch.eye(5, 8, dtype=torch.float64)
    found = collapse_metrics(class_statistics(features, targets), frame)
    assert bool(torch.isnan(found.alignment[2]))
    assert bool(torch.isnan(found.nc1_by_class[2]))
    assert float(found.alignment.nanmean()) == pytest.approx(found.nc3)
    assert float(found.nc1_by_class.nanmean()) == pytest.approx(found.nc1)
