"""Dirichlet draws: how much of each class, and of the whole, goes to each site (METHOD section 5)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def dirichlet(concentration: Floats, rng: np.random.Generator) -> Floats:
    """One Dirichlet draw a row, for any positive concentration however small.

    Gamma variates are drawn as logarithms (G(a) = G(a + 1) * U^(1/a)): at an alpha of 0.001 the variates
    themselves underflow to zero and their ratio is lost.

    Args:
        concentration: ``[..., S]``, positive; 0 gives a share of exactly 0.
        rng: source of randomness.

    Returns:
        Shares ``[..., S]``; each row with a positive entry sums to 1.
    """
    open_ = concentration > 0
    a = np.where(open_, concentration, 1.0)
    # 1 - random() lies in (0, 1], so the logarithm is finite.
    log_gamma = np.log(rng.standard_gamma(a + 1.0)) + np.log(1.0 - rng.random(a.shape)) / a
    log_gamma = np.where(open_, log_gamma, -np.inf)
    largest = log_gamma.max(axis=-1, keepdims=True)
    shares = np.exp(log_gamma - np.where(np.isfinite(largest), largest, 0.0))
    total = shares.sum(axis=-1, keepdims=True)
    result: Floats = shares / np.where(total > 0, total, 1.0)
    return result


def site_sizes(sites: int, quantity_alpha: float | None, rng: np.random.Generator) -> Floats:
    """Share of the pool that each site is meant to hold, ``[S]``: equal, or drawn from Dirichlet(quantity_alpha)."""
    if quantity_alpha is None:
        return np.full(sites, 1.0 / sites)
    return dirichlet(np.full(sites, quantity_alpha), rng)


def class_shares(alpha: float, sizes: Floats, held: npt.NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Share of every class that goes to every site.

    Each class is drawn from a Dirichlet whose mean is ``sizes``: with equal sizes that is Dirichlet(alpha),
    and with unequal ones a large site is as skewed as a small one, but large.

    Args:
        alpha: concentration per site; small is skewed, large is even.
        sizes: ``[S]``, sums to 1.
        held: ``[K, S]``, whether a site holds a class at all.
        rng: source of randomness.

    Returns:
        ``[K, S]``, every row sums to 1 and is 0 where a class is not held.
    """
    # A size of nearly 0 must still be a valid concentration.
    base = np.maximum(sizes, 1e-9) * len(sizes) * alpha
    return dirichlet(np.where(held, base, 0.0), rng)
