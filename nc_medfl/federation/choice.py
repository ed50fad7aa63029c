"""Choosing a round: the highest mean over sites of the macro AUC on validation.

Sites may be late or gone, so two rounds may have been scored by different sites. They are compared over the sites
that scored both; else a round would win because a hard site was away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Score:
    """What the sites made of one global model.

    Attributes:
        by_site: macro AUC on validation, of the sites where it is defined.
    """

    by_site: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """The mean over sites, or None where no site could score."""
        return float(np.mean(list(self.by_site.values()))) if self.by_site else None

    def beats(self, other: Score) -> bool:
        """Whether this is higher on average over the sites that have scored both."""
        both = [site for site in self.by_site if site in other.by_site]
        if not both:
            return False
        return float(np.mean([self.by_site[s] - other.by_site[s] for s in both])) > 0


@dataclass(frozen=True)
class Chosen:
    """The best model so far.

    Attributes:
        rounds: the rounds it has been through.
        score: the sites'.
    """

    rounds: int
    score: Score
