"""The average that is taken as updates arrive, beside exact fractions and beside the one that holds them all."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nc_medfl.federation.averaging import SiteUpdate, average
from nc_medfl.federation.class_statistics import SiteStatistics
from nc_medfl.federation.exact import ExactSum
from nc_medfl.federation.streaming import RunningAverage

SITES, CLASSES = 5, 3
AXES = {"bias": 0, "head": 1}
PREVIOUS = {
    "weight": torch.tensor([[1.0, -2.0], [0.5, 3.0]]),
    "bias": torch.tensor([7.0, 8.0, 9.0]),
    "head": torch.arange(6.0).reshape(2, 3),
    "steps": torch.tensor(5),
}
# Values of very different size, which float64 sums of one order or another round differently.
VALUES = st.floats(-1e6, 1e6, width=32).map(lambda v: 0.0 if abs(v) < 1e-6 else v)

LARGE = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda v: v == 0 or abs(v) > 2.0**62)


@st.composite
def rounds(draw: st.DrawFn) -> list[SiteUpdate]:
    updates = []
    for number in range(SITES):
        params = {
            name: torch.from_numpy(draw(arrays(np.float32, tuple(old.shape), elements=VALUES)))
            for name, old in PREVIOUS.items()
            if old.is_floating_point()
        }
        params["steps"] = torch.tensor(draw(st.integers(0, 10_000)))
        counts = draw(arrays(np.float64, (2, CLASSES), elements=st.sampled_from([0.0, 1.0, 7.0, 33.0, np.nan])))
        n_samples = draw(st.integers(1, 400_000))
        updates.append(SiteUpdate(f"s{number}", params, n_samples, SiteStatistics(counts)))
    return updates


def streamed(updates: list[SiteUpdate], weighting: str) -> dict[str, torch.Tensor]:
    running = RunningAverage(PREVIOUS, weighting=weighting, class_axes=AXES)
    for update in updates:
        running.add(update.params, n_samples=update.n_samples, positives=update.statistics.counts[0])
    return running.result()


@pytest.mark.parametrize("weighting", ["uniform", "samples", "class_aware"])
@given(updates=rounds(), order=st.permutations(range(SITES)))
@settings(max_examples=60, deadline=None)
def test_the_order_of_arrival_changes_no_bit(weighting: str, updates: list[SiteUpdate], order: list[int]) -> None:
    one, other = streamed(updates, weighting), streamed([updates[i] for i in order], weighting)
    for name in PREVIOUS:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("weighting", ["uniform", "samples", "class_aware"])
@given(updates=rounds())
@settings(max_examples=60, deadline=None)
def test_it_equals_the_average_that_holds_all_updates(weighting: str, updates: list[SiteUpdate]) -> None:
    expected = average(PREVIOUS, updates, weighting=weighting, class_axes=AXES)
    found = streamed(updates, weighting)
    largest = max(float(u.params[n].abs().max()) for u in updates for n in ("weight", "bias", "head"))
    for name, old in PREVIOUS.items():
        assert found[name].dtype == old.dtype
        # Of the largest term, for where terms cancel; float32 itself has an eps of 1.2e-7.
        torch.testing.assert_close(found[name], expected[name], rtol=1.2e-7, atol=1e-12 * max(largest, 1.0))


@given(updates=rounds())
@settings(max_examples=40, deadline=None)
def test_the_weighted_mean_is_that_of_exact_fractions(updates: list[SiteUpdate]) -> None:
    total = sum(u.n_samples for u in updates)
    found = streamed(updates, "samples")["weight"]
    for index in np.ndindex(2, 2):
        exact = sum(Fraction(float(u.params["weight"][index])) * u.n_samples for u in updates) / total
        # Half a step of float32, whatever cancels (and a breath: it is rounded to float64 first).
        half_step = Fraction(float(abs(np.spacing(np.float32(exact))))) / 2
        assert abs(Fraction(float(found[index])) - exact) <= half_step * Fraction(1000001, 1000000)


@pytest.mark.parametrize("weighting", ["uniform", "samples", "class_aware"])
@given(updates=rounds(), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_the_order_changes_no_bit_of_ordinary_weights_of_many_sites(
    weighting: str, updates: list[SiteUpdate], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    previous = {"w": torch.zeros(500)}
    models = [{"w": torch.randn(500, generator=generator) * 0.05} for _ in range(60)]
    results = []
    for order in (range(60), torch.randperm(60, generator=generator).tolist()):
        running = RunningAverage(previous, weighting=weighting, class_axes={})
        for number in order:
            running.add(models[number], n_samples=1 + 37 * number, positives=np.ones(2))
        results.append(running.result()["w"])
    assert torch.equal(*results)


def test_withheld_counts_stand_for_the_mean_of_the_others_by_hand() -> None:
    # Told 2 and 4, so the third counts as 3: (2 * 1 + 4 * 2 + 3 * 10) / 9 = 40 / 9.
    running = RunningAverage({"bias": torch.zeros(1)}, weighting="class_aware", class_axes={"bias": 0})
    for value, positives in ((1.0, 2.0), (10.0, np.nan), (2.0, 4.0)):
        running.add({"bias": torch.tensor([value])}, n_samples=1, positives=np.array([positives]))
    assert running.result()["bias"].item() == pytest.approx(40 / 9)


def test_no_update_keeps_the_previous_model() -> None:
    out = RunningAverage(PREVIOUS, weighting="samples", class_axes={}).result()
    assert all(torch.equal(out[name], value) for name, value in PREVIOUS.items())


@given(
    terms=st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda v: v == 0 or abs(v) > 2.0**62), min_size=1, max_size=40
    ),
    seed=st.randoms(),
)
def test_an_exact_sum_is_exact_and_has_no_order(terms: list[float], seed: object) -> None:
    shuffled = list(terms)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    sums = []
    for order in (terms, shuffled):
        total = ExactSum(())
        for term in order:
            total.add(torch.tensor(term, dtype=torch.float32), 3.0)
        sums.append(total.value().item())
    assert sums[0] == sums[1] == float(sum(map(Fraction, terms)) * 3)


def test_an_exact_sum_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match="shape"):
        ExactSum((2,)).add(torch.zeros(3))
