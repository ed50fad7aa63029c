"""Counts that may be shown: small ones are withheld, and so is what would give them away."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

#: Counts from 1 to one less than this are withheld.
MINIMUM = 5


def guarded(counts: Mapping[K, int], minimum: int = MINIMUM) -> dict[K, int | None]:
    """Withhold small counts of groups that together make a known total.

    A count of 1 to ``minimum - 1`` becomes None. A single withheld count could be worked out from the total, and so
    could a few that add up to less than the minimum: then the smallest of the other counts is withheld too.

    Args:
        counts: by group; every member of the total is in one group.
        minimum: the smallest count that is shown; 0 is shown.

    Example:
        >>> guarded({"F": 40, "M": 52, "O": 2})
        {'F': None, 'M': 52, 'O': None}
    """
    out: dict[K, int | None] = {key: count if count == 0 or count >= minimum else None for key, count in counts.items()}
    hidden = [count for key, count in counts.items() if out[key] is None]
    if hidden and (len(hidden) == 1 or sum(hidden) < minimum):
        shown = [key for key, count in out.items() if count]
        if shown:
            out[min(shown, key=lambda key: counts[key])] = None
    return out
