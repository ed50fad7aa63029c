"""Which well-formed updates may enter the average: what can only be told beside other sites or other rounds.

An update is judged on arrival where earlier rounds give a measure. Where they don't (the first round, or a robust
average), it waits on disk and is judged with the whole round, so that no verdict hangs on who answered first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nc_medfl.config import AggregationSettings
from nc_medfl.federation.checks import shown
from nc_medfl.federation.class_statistics import Floats
from nc_medfl.federation.norms import NormHistory, Norms, excess, median_norms
from nc_medfl.federation.refusal import RefusedUpdate


@dataclass(frozen=True)
class Candidate:
    """A well-formed update, without its parameters.

    Attributes:
        site: its name.
        n_samples: training images.
        counts: positives and negatives of each class, ``[2, C]``; NaN where withheld.
        preparation: hash of the site's preparation settings.
        norms: lengths of its change.
        exact: whether its counts are exact; a site that adds noise has others each round.
        file: where its parameters lie on disk, if they wait there.
        has_sums: whether feature sums came with it.
    """

    site: str
    n_samples: int
    counts: Floats
    preparation: str | None
    norms: Norms
    exact: bool = True
    file: Path | None = None
    has_sums: bool = False


@dataclass(frozen=True)
class Verdict:
    """What becomes of an update.

    Attributes:
        refused: why it is refused; empty if it is not.
        shorten: by how much its change is to be shortened, for each kind of tensor that is too long.
    """

    refused: str = ""
    shorten: Mapping[str, float] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """For the round's log."""
        if self.refused or not self.shorten:
            return self.refused
        return "; ".join(f"{kind} cut to 1/{times:.3g} of their change" for kind, times in sorted(self.shorten.items()))


class Judge:
    """Remembers what earlier rounds showed, and decides.

    Args:
        settings: of the job's aggregation.
    """

    def __init__(self, settings: AggregationSettings) -> None:
        self._settings = settings
        self._preparation = settings.preparation
        self._history = NormHistory()
        self._round: list[Norms] = []
        self._counts: dict[str, tuple[int, Floats]] = {}

    @property
    def needs_whole_round(self) -> bool:
        """Whether a verdict has to wait for the other updates of this round."""
        settings = self._settings
        if settings.robust != "none":
            return True
        if self._preparation is None and not settings.allow_other_preparation:
            return True
        return settings.norm_policy != "off" and not self._history.medians()

    def begin_round(self) -> None:
        """A round is over, another begins."""
        self._history.add_round(self._round)
        self._round = []

    def note(self, candidate: Candidate) -> None:
        """Take the lengths of a well-formed update into account, whatever becomes of it."""
        self._round.append(candidate.norms)

    def choose_preparation(self, candidates: Sequence[Candidate]) -> None:
        """Hold the sites to the preparation that most of them have, if the job names none."""
        if self._preparation is None and candidates:
            votes = Counter(c.preparation for c in candidates if c.preparation)
            first = {c.preparation: c.site for c in sorted(candidates, key=lambda c: c.site, reverse=True)}
            ranked = sorted(votes, key=lambda value: (-votes[value], first[value]))
            self._preparation = ranked[0] if ranked else None

    def verdict(self, candidate: Candidate) -> Verdict:
        """Decide on one update; noted before, as are all others that count."""
        try:
            self.check_preparation(candidate.preparation)
            self._check_counts(candidate)
            shorten = self._lengths(candidate)
        except RefusedUpdate as reason:
            return Verdict(refused=str(reason))
        self._counts.setdefault(candidate.site, (candidate.n_samples, candidate.counts))
        return Verdict(shorten=shorten)

    def check_preparation(self, preparation: str | None) -> None:
        """Check a site's preparation against the federation's, once there is one.

        Raises:
            RefusedUpdate: if it differs and the job does not allow that.
        """
        if self._settings.allow_other_preparation:
            return
        if not preparation:
            raise RefusedUpdate("it carries no preparation fingerprint")
        if self._preparation not in (None, preparation):
            raise RefusedUpdate(
                f"preparation settings differ: {shown(preparation, 12)} there, {shown(self._preparation, 12)} at the "
                "others. Prepare its store alike, or set aggregation.allow_other_preparation"
            )

    def known_samples(self, site: str) -> int:
        """The most training images that a site can have, by what it said before."""
        return self._counts[site][0] if site in self._counts else self._settings.max_samples

    def _check_counts(self, candidate: Candidate) -> None:
        if self._settings.allow_changing_counts or not candidate.exact or candidate.site not in self._counts:
            return
        n_samples, counts = self._counts[candidate.site]
        if candidate.n_samples != n_samples or not np.array_equal(candidate.counts, counts, equal_nan=True):
            raise RefusedUpdate(
                "its number of images or its class counts changed since an earlier round. If its store was changed "
                "on purpose, set aggregation.allow_changing_counts"
            )

    def _lengths(self, candidate: Candidate) -> dict[str, float]:
        settings = self._settings
        medians = self._medians()
        far = excess(candidate.norms, medians, settings.max_norm_ratio) if settings.norm_policy != "off" else {}
        if far and settings.norm_policy == "refuse":
            kind, times = max(far.items(), key=lambda item: item[1])
            raise RefusedUpdate(
                f"its change of {kind} is {times * settings.max_norm_ratio:.3g} times as long as the median, more than "
                f"aggregation.max_norm_ratio ({settings.max_norm_ratio:g})"
            )
        return excess(candidate.norms, medians, 1.0) if settings.robust == "norm_clip" else far

    def _medians(self) -> dict[str, float]:
        """What to compare lengths with: earlier rounds, save that a robust average has the whole round at hand."""
        here = median_norms(self._round) if self._settings.robust != "none" else {}
        return here or self._history.medians() or median_norms(self._round)
