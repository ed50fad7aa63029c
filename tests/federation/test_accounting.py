"""Epsilon and delta, beside published values and formulas written down anew."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import comb, logsumexp

from nc_medfl.errors import UserError
from nc_medfl.federation.accounting import (
    DP_SGD,
    LEDGER,
    STATISTICS,
    Ledger,
    Release,
    epsilon_of,
    gaussian_delta,
    gaussian_epsilon,
)


def test_epsilon_1_at_delta_1e5_needs_the_published_deviation() -> None:
    # The analytic Gaussian mechanism's deviation for (1, 1e-5) and sensitivity 1, as several libraries print it.
    assert gaussian_epsilon(1 / 3.730631634816464, 1e-5) == pytest.approx(1.0, abs=1e-6)


@given(mu=st.floats(0.2, 5.0), epsilon=st.floats(0.0, 6.0))
def test_delta_is_the_divergence_of_two_gaussians(mu: float, epsilon: float) -> None:
    # By definition: the integral of what one density exceeds e^epsilon times the other.
    def excess(x: float) -> float:
        here = math.exp(-0.5 * (x - mu) ** 2) / math.sqrt(2 * math.pi)
        return max(0.0, here - math.exp(epsilon - 0.5 * x * x) / math.sqrt(2 * math.pi))

    # The first density exceeds the second beyond this point alone.
    edge = epsilon / mu + mu / 2
    expected, _ = quad(excess, edge, edge + mu + 12, limit=200)
    assert gaussian_delta(mu, epsilon) == pytest.approx(expected, abs=1e-8)


def test_a_hundred_releases_are_one_with_a_tenth_of_the_noise() -> None:
    assert epsilon_of([Release(STATISTICS, 20.0)] * 100, 1e-5) == pytest.approx(gaussian_epsilon(1 / 2.0, 1e-5))
    assert epsilon_of([Release(STATISTICS, 20.0, steps=100)], 1e-5) == pytest.approx(gaussian_epsilon(1 / 2.0, 1e-5))


def test_nothing_costs_nothing_and_no_noise_has_no_bound() -> None:
    assert epsilon_of([], 1e-5) == 0.0
    assert epsilon_of([Release(STATISTICS, 1e-5)], 1e-5) == math.inf


def sampled_gaussian_rdp(rate: float, multiplier: float, order: int) -> float:
    """Rényi divergence of the sampled Gaussian at a whole order: Mironov, Talwar, Zhang 2019, section 3.3."""
    k = np.arange(order + 1)
    draws = np.log(comb(order, k)) + (order - k) * np.log1p(-rate) + k * np.log(rate)
    return float(logsumexp(draws + (k * k - k) / (2 * multiplier**2))) / (order - 1)


# Noise, epochs and epsilon of DP-SGD on 60,000 images in batches of 256 at delta 1e-5, as the tutorial of
# TensorFlow Privacy gave them, with the conversion of that time.
@pytest.mark.parametrize(("multiplier", "epochs", "published"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)])
def test_dp_sgd_costs_what_is_published_for_mnist(multiplier: float, epochs: int, published: float) -> None:
    rate, steps, delta = 256 / 60_000, int(60_000 / 256 * epochs), 1e-5
    orders = range(2, 64)
    costs = [steps * sampled_gaussian_rdp(rate, multiplier, order) for order in orders]
    old = min(cost + math.log(1 / delta) / (a - 1) for a, cost in zip(orders, costs, strict=True))
    assert old == pytest.approx(published, rel=0.01)
    # The tighter conversion of Canonne, Kamath, Steinke 2020.
    new = min(
        cost + math.log((a - 1) / a) - (math.log(delta) + math.log(a)) / (a - 1)
        for a, cost in zip(orders, costs, strict=True)
    )
    assert epsilon_of([Release(DP_SGD, multiplier, rate, steps)], delta) == pytest.approx(new, rel=0.02)


def test_dp_sgd_and_statistics_cost_less_together_than_added_up_and_more_than_either() -> None:
    sgd, statistics = Release(DP_SGD, 1.0, 0.05, 200), Release(STATISTICS, 8.0, steps=11)
    alone = [epsilon_of([sgd], 1e-5), epsilon_of([statistics], 1e-5)]
    assert max(alone) < epsilon_of([sgd, statistics], 1e-5) < sum(alone)


def test_the_ledger_is_private_appended_to_and_read_back(tmp_path: Path) -> None:
    first, second = Release(STATISTICS, 4.0), Release(DP_SGD, 1.0, 0.1, 12)
    Ledger(tmp_path).add("run-a", [first])
    before = (tmp_path / "site_private" / LEDGER).read_bytes()
    Ledger(tmp_path).add("run-b", [second])
    path = tmp_path / "site_private" / LEDGER
    assert Ledger(tmp_path).spent() == [("run-a", first), ("run-b", second)]
    assert path.read_bytes().startswith(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["{", "[]\n", json.dumps({"run": "a", "mechanism": "x"}) + "\n", "7\n"])
def test_a_damaged_ledger_is_no_empty_one(tmp_path: Path, content: str) -> None:
    Ledger(tmp_path).add("run", [Release(STATISTICS, 4.0)])
    (tmp_path / "site_private" / LEDGER).write_text(content)
    with pytest.raises(UserError, match="damaged, so what was spent is unknown"):
        Ledger(tmp_path).spent()


def test_epsilon_by_sampling_never_exceeds_the_bound() -> None:
    # An attack on one release: tell N(0, z) from N(1, z). No threshold does better than epsilon, delta allow.
    z, delta = 2.0, 1e-3
    epsilon = epsilon_of([Release(STATISTICS, z)], delta)
    rng = np.random.default_rng(0)
    absent, present = rng.normal(0, z, 400_000), rng.normal(1, z, 400_000)
    for threshold in np.linspace(-4, 8, 25):
        assert (present > threshold).mean() <= math.exp(epsilon) * (absent > threshold).mean() + delta + 5e-3
