"""Label sets drawn as they occur in a real table, with rare findings enriched where asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from nc_medfl.data.synthetic.nih_counts import NIH_FINDINGS, nih_combinations
from nc_medfl.errors import UserError

_ROUNDS = 400
_LARGEST_FACTOR = 1e9  # far above what any floor that can be met needs; Hernia at 21% takes about 360


def combination_weights(
    *, floor: float = 0.0, emphasis: Mapping[str, float] | None = None, missing: Collection[str] = ()
) -> npt.NDArray[np.float64]:
    """Probability of every set of findings in :func:`nih_combinations`.

    Without arguments these are the shares in the NIH table. A finding that would be rarer than asked is enriched:
    all sets that hold it are weighted up by one factor, so what occurs with it stays in proportion. A set takes the
    largest factor of its findings.

    Args:
        floor: the least prevalence of every finding that is not missing, 0 to leave all as they are.
        emphasis: higher floors for some findings.
        missing: findings never seen; no set with one of them is drawn.

    Returns:
        ``[801]``, summing to 1.

    Raises:
        UserError: if a name is not one of the 14, or the floors cannot be met together.
    """
    emphasis = dict(emphasis or {})
    wrong = sorted({*emphasis, *missing} - set(NIH_FINDINGS))
    if wrong:
        raise UserError(f"synthetic prevalence: unknown finding '{wrong[0]}'. There are: {', '.join(NIH_FINDINGS)}.")
    members, counts = nih_combinations()
    absent = np.array([name in missing for name in NIH_FINDINGS])
    wanted = np.where(absent, 0.0, [max(floor, emphasis.get(name, 0.0)) for name in NIH_FINDINGS])
    base = np.where(members[:, absent].any(axis=1), 0.0, counts / counts.sum())
    factors = np.ones(len(NIH_FINDINGS))
    for _ in range(_ROUNDS):
        weights: npt.NDArray[np.float64] = base * np.where(members, factors, 1.0).max(axis=1)
        weights /= weights.sum()
        short = wanted / np.maximum(weights @ members, 1e-12)
        if (short <= 1.0 + 1e-4).all():
            return weights
        factors *= np.maximum(1.0, short)
        if factors.max() > _LARGEST_FACTOR:
            break
    raise UserError(
        f"synthetic prevalence: {wanted.sum():.0%} in all is more than sets of findings can carry. Lower the floors."
    )


def sample_findings(
    n: int,
    rng: np.random.Generator,
    *,
    floor: float = 0.0,
    emphasis: Mapping[str, float] | None = None,
    missing: Collection[str] = (),
) -> list[tuple[str, ...]]:
    """Draw label sets with the prevalence and co-occurrence of the NIH table.

    Drawing is systematic (evenly spaced over the cumulated weights, ordered by each set's rarest finding, then
    shuffled): every set keeps its probability, and even a small draw comes close to the prevalence asked for.

    Args:
        n: how many.
        rng: where chance comes from.
        floor: see :func:`combination_weights`; so are ``emphasis`` and ``missing``.
        emphasis: higher floors for some findings.
        missing: findings never seen.

    Returns:
        ``n`` tuples of findings, each in the order of the vocabulary; an empty one is a normal film.
    """
    members, counts = nih_combinations()
    weights = combination_weights(floor=floor, emphasis=emphasis, missing=missing)
    totals = counts @ members
    rarest = np.where(members, totals, np.iinfo(np.int64).max).min(axis=1)
    order = np.argsort(rarest, kind="stable")
    edges = np.cumsum(weights[order])
    ticks = (np.arange(n) + rng.random()) / max(n, 1)
    chosen = order[np.minimum(np.searchsorted(edges, ticks, side="right"), len(order) - 1)]
    rng.shuffle(chosen)
    return [tuple(np.array(NIH_FINDINGS)[members[row]].tolist()) for row in chosen]
