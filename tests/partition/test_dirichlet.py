"""Dirichlet draws and missing classes: shares add up, tiny concentrations work, nobody is orphaned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.partition.dirichlet import class_shares, dirichlet, site_sizes
from nc_medfl.partition.missing_classes import draw_held, most_missing


@given(
    alpha=st.floats(1e-4, 1e4),
    sites=st.integers(2, 30),
    quantity_alpha=st.none() | st.floats(0.01, 100),
    seed=st.integers(0, 99),
)
def test_every_class_is_shared_out_whole(alpha: float, sites: int, quantity_alpha: float | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    held = draw_held(6, sites, 1, rng)
    shares = class_shares(alpha, site_sizes(sites, quantity_alpha, rng), held, rng)
    assert np.isfinite(shares).all()
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert (shares[~held] == 0).all()


def test_mean_and_variance_are_those_of_the_dirichlet_distribution() -> None:
    # Dirichlet(a): mean a_i / A, variance a_i (A - a_i) / (A^2 (A + 1)). With a = (0.2, 0.5, 1.3), A = 2:
    # means 0.1, 0.25, 0.65; variances 0.2*1.8/12 = 0.03, 0.5*1.5/12 = 0.0625, 1.3*0.7/12 = 0.0758333.
    draws = dirichlet(np.tile([0.2, 0.5, 1.3], (40_000, 1)), np.random.default_rng(0))
    np.testing.assert_allclose(draws.mean(axis=0), [0.1, 0.25, 0.65], atol=0.005)
    np.testing.assert_allclose(draws.var(axis=0), [0.03, 0.0625, 0.0758333], atol=0.002)


def test_a_tiny_alpha_gives_a_class_to_one_site() -> None:
    draws = dirichlet(np.full((200, 5), 1e-4), np.random.default_rng(0))
    assert (draws.max(axis=1) > 0.999).mean() > 0.98
    assert len(np.unique(draws.argmax(axis=1))) == 5


def test_shares_follow_the_site_sizes_on_average() -> None:
    sizes = np.array([0.6, 0.3, 0.1])
    shares = class_shares(0.5, sizes, np.ones((20_000, 3), dtype=bool), np.random.default_rng(0))
    np.testing.assert_allclose(shares.mean(axis=0), sizes, atol=0.01)


@given(classes=st.integers(1, 20), sites=st.integers(2, 12), seed=st.integers(0, 999), part=st.floats(0, 1))
def test_each_site_misses_just_so_many_and_each_class_is_held(classes: int, sites: int, seed: int, part: float) -> None:
    missing = round(part * most_missing(classes, sites))
    held = draw_held(classes, sites, missing, np.random.default_rng(seed))
    assert ((~held).sum(axis=0) == missing).all()
    assert held.any(axis=1).all()


def test_more_missing_than_can_be_is_refused() -> None:
    # 4 classes at 2 sites: with 3 missing at each, 2 classes held at most, so 2 are held by nobody.
    assert most_missing(4, 2) == 2
    with pytest.raises(ValueError, match="3 of 4"):
        draw_held(4, 2, 3, np.random.default_rng(0))
