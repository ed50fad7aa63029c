"""Which classes a site never sees (METHOD section 5: clients that miss whole classes)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def most_missing(classes: int, sites: int) -> int:
    """The most classes that every site can miss while each class is held by a site."""
    return classes * (sites - 1) // sites


def draw_held(classes: int, sites: int, missing: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draw the classes that each site holds: all but ``missing``, and each class somewhere.

    Args:
        classes: number of classes C.
        sites: number of sites S.
        missing: classes that each site misses, at most :func:`most_missing`.
        rng: source of randomness.

    Returns:
        Whether a site holds a class, ``[C, S]``; every column has ``missing`` False, every row a True.

    Raises:
        ValueError: if ``missing`` is out of range.
    """
    if not 0 <= missing <= most_missing(classes, sites):
        raise ValueError(f"{missing} of {classes} classes can't be missing at each of {sites} sites")
    held = np.ones((classes, sites), dtype=np.bool_)
    for site in range(sites):
        held[rng.choice(classes, size=missing, replace=False), site] = False
    for orphan in np.flatnonzero(~held.any(axis=1)):
        # A class that nobody drew goes back to a site which gives up the class that most sites hold. Misses add
        # up to at most C * (S - 1), so while one class is missed S times another is held by two sites or more.
        holders = held.sum(axis=1)
        given_up = int(rng.choice(np.flatnonzero(holders == holders.max())))
        site = int(rng.choice(np.flatnonzero(held[given_up])))
        held[orphan, site], held[given_up, site] = True, False
    return held
