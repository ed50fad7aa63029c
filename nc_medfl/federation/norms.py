"""How far an update goes, beside the others: lengths, what counts as far, and clipping."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

import numpy as np
import torch
from torch import Tensor

#: L2 norms of what an update changes: of what is trained, and of what is only measured (running statistics).
Norms = Mapping[str, float]

WEIGHTS, BUFFERS = "weights", "buffers"

#: Fewer updates than this can't tell which of them is far.
ENOUGH = 3
_ROUNDS = 5


def kind_of(name: str, trained: Set[str]) -> str:
    """Which of the two norms a tensor counts in."""
    return WEIGHTS if name in trained else BUFFERS


def update_norms(previous: Mapping[str, Tensor], params: Mapping[str, Tensor], trained: Set[str]) -> dict[str, float]:
    """L2 norms of an update's change, of weights and of floating buffers apart; integer buffers don't count.

    Running variances live on another scale than weights, and would hide them in one norm.
    """
    squares: dict[str, float] = {}
    for name, old in previous.items():
        if old.is_floating_point() and old.numel():
            length = float(torch.linalg.vector_norm(params[name] - old, dtype=torch.float64))
            kind = kind_of(name, trained)
            squares[kind] = squares.get(kind, 0.0) + length**2
    return {kind: math.sqrt(total) for kind, total in squares.items()}


def median_norms(norms: Sequence[Norms]) -> dict[str, float]:
    """The median of each kind; empty if there are too few to tell."""
    if len(norms) < ENOUGH:
        return {}
    return {kind: float(np.median([one[kind] for one in norms])) for kind in norms[0]}


def excess(norms: Norms, medians: Norms, ratio: float) -> dict[str, float]:
    """How many times the allowed length an update has, for each kind that is too long.

    Args:
        norms: of the update.
        medians: to compare with; a kind that is missing, or 0 (nobody changed it), can't be judged.
        ratio: allowed, as a multiple of the median.
    """
    found = {}
    for kind, norm in norms.items():
        limit = ratio * medians.get(kind, 0.0)
        if limit > 0 and norm > limit:
            found[kind] = norm / limit
    return found


def clipped(
    previous: Mapping[str, Tensor], params: Mapping[str, Tensor], excess: Mapping[str, float], trained: Set[str]
) -> dict[str, Tensor]:
    """An update whose change is scaled down by how much it is too long; integer buffers stay as they are."""
    return {
        name: clip_part(value, previous[name], excess.get(kind_of(name, trained), 1.0))
        for name, value in params.items()
    }


def clip_part(value: Tensor, old: Tensor, times: float) -> Tensor:
    """A stretch of a tensor, moved towards the previous one so that its change is ``times`` shorter."""
    if times <= 1 or not old.is_floating_point():
        return value
    return (old.double() + (value.double() - old.double()) / times).to(value.dtype)


class NormHistory:
    """Norms of the well-formed updates of the last rounds.

    Those of refused and clipped updates count too, as they came: one site has one vote a round, so a minority can't
    move the median, and a federation whose updates really grow is not locked out by its own past.
    """

    def __init__(self) -> None:
        self._rounds: deque[list[Norms]] = deque(maxlen=_ROUNDS)

    def add_round(self, norms: Iterable[Norms]) -> None:
        """Note the norms of a round that is over."""
        noted = list(norms)
        if noted:
            self._rounds.append(noted)

    def __iter__(self) -> Iterator[Norms]:
        return (norms for one in self._rounds for norms in one)

    def medians(self) -> dict[str, float]:
        """Of all noted norms; empty if there are too few to tell."""
        return median_norms(list(self))
