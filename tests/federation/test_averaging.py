"""The arithmetic of the server, against numbers worked by hand and properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nc_medfl.federation.averaging import SiteUpdate, average
from nc_medfl.federation.class_statistics import SiteStatistics


def update(site: str, params: dict[str, torch.Tensor], n: int, positives: list[float]) -> SiteUpdate:
    counts = np.array([positives, [1.0] * len(positives)])
    return SiteUpdate(site, params, n, SiteStatistics(counts))


def weights_of(positives: np.ndarray) -> np.ndarray:
    """What each site weighs in each class, ``[S, C]``: sites send unit vectors, whose average is the weights."""
    n_sites, n_classes = positives.shape
    vectors = torch.eye(n_sites, dtype=torch.float64)
    sites = [update(f"s{i}", {"head": vectors[i].repeat(n_classes, 1)}, 1, list(positives[i])) for i in range(n_sites)]
    previous = {"head": torch.zeros(n_classes, n_sites, dtype=torch.float64)}
    return average(previous, sites, weighting="class_aware", class_axes={"head": 0})["head"].numpy().T


def two_sites() -> list[SiteUpdate]:
    # Class 0: site a has 3 positives, b has 1. Class 1: only b. Class 2: nobody.
    a = {"weight": torch.tensor([1.0, 2.0]), "bias": torch.tensor([4.0, 4.0, 4.0]), "steps": torch.tensor(3)}
    b = {"weight": torch.tensor([5.0, 6.0]), "bias": torch.tensor([8.0, 8.0, 8.0]), "steps": torch.tensor(6)}
    return [update("b", b, 10, [1, 2, 0]), update("a", a, 30, [3, 0, 0])]


PREVIOUS = {"weight": torch.zeros(2), "bias": torch.tensor([9.0, 9.0, 9.0]), "steps": torch.tensor(0)}


@pytest.mark.parametrize(
    ("weighting", "weight", "bias"),
    [
        # uniform: (1+5)/2, (2+6)/2; bias (4+8)/2
        ("uniform", [3.0, 4.0], [6.0, 6.0, 6.0]),
        # samples 30:10 -> 3/4 and 1/4: 1*.75+5*.25 = 2, 2*.75+6*.25 = 3; bias 4*.75+8*.25 = 5
        ("samples", [2.0, 3.0], [5.0, 5.0, 5.0]),
        # class_aware: shared as samples; class 0 by 3:1 -> 5, class 1 only b -> 8, class 2 keeps 9
        ("class_aware", [2.0, 3.0], [5.0, 8.0, 9.0]),
    ],
)
def test_average_by_hand(weighting: str, weight: list[float], bias: list[float]) -> None:
    out = average(PREVIOUS, two_sites(), weighting=weighting, class_axes={"bias": 0})
    torch.testing.assert_close(out["weight"], torch.tensor(weight))
    torch.testing.assert_close(out["bias"], torch.tensor(bias))


def test_integer_buffers_stay_integers_and_types_are_kept() -> None:
    previous = {**PREVIOUS, "half": torch.zeros(2, dtype=torch.float16)}
    sites = [
        update(u.site, {**u.params, "half": torch.ones(2, dtype=torch.float16)}, u.n_samples, [1, 1, 1])
        for u in two_sites()
    ]
    out = average(previous, sites, weighting="uniform", class_axes={})
    assert {name: value.dtype for name, value in out.items()} == {n: v.dtype for n, v in previous.items()}
    assert out["steps"].item() == 4  # (3 + 6) / 2 = 4.5, rounded to even


def test_class_axis_need_not_be_the_first() -> None:
    previous = {"head": torch.zeros(2, 3)}
    sites = [
        update("a", {"head": torch.full((2, 3), 1.0)}, 1, [1, 0, 0]),
        update("b", {"head": torch.full((2, 3), 2.0)}, 1, [0, 1, 0]),
    ]
    out = average(previous, sites, weighting="class_aware", class_axes={"head": 1})
    torch.testing.assert_close(out["head"], torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]]))


def test_no_update_keeps_the_previous_model() -> None:
    out = average(PREVIOUS, [], weighting="uniform", class_axes={})
    assert all(torch.equal(out[name], value) for name, value in PREVIOUS.items())


def test_a_withheld_count_stands_for_the_mean_of_the_others() -> None:
    # Told: 2 and 4, so the third site counts as 3: weights 2/9, 4/9, 3/9.
    weights = weights_of(np.array([[2.0], [4.0], [np.nan]]))
    np.testing.assert_allclose(weights[:, 0], [2 / 9, 4 / 9, 3 / 9])


def test_a_class_that_all_withhold_weighs_all_sites_the_same() -> None:
    np.testing.assert_allclose(weights_of(np.full((4, 1), np.nan))[:, 0], [0.25] * 4)


@given(counts=arrays(np.int64, (5, 14), elements=st.integers(0, 500)))
def test_class_weights_of_a_class_sum_to_one_or_to_nothing(counts: np.ndarray) -> None:
    total = weights_of(counts.astype(float)).sum(axis=0)
    np.testing.assert_allclose(total, (counts.sum(axis=0) > 0).astype(float), atol=1e-12)


@given(order=st.permutations(range(4)), seed=st.integers(0, 1000))
def test_the_average_does_not_depend_on_the_order_of_arrival(order: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sites = [update(f"s{i}", {"w": torch.randn(7, generator=generator) * 10.0**i}, i + 1, [i, 1]) for i in range(4)]
    previous = {"w": torch.zeros(7)}
    first = average(previous, sites, weighting="samples", class_axes={})
    second = average(previous, [sites[i] for i in order], weighting="samples", class_axes={})
    assert torch.equal(first["w"], second["w"])
