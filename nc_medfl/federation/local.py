"""A federation in one process, without FLARE: the same rounds and updates, one site after the other.

For comparing methods, where a network between processes adds nothing, and as the reference that FLARE's own runs are
checked against. Every site is there in every round; nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.data.store import Store
from nc_medfl.errors import RunFailed
from nc_medfl.federation.averaging import SiteUpdate, average
from nc_medfl.federation.choice import Chosen, Score
from nc_medfl.federation.controls import first_controls, moved
from nc_medfl.federation.server_step import ServerStep
from nc_medfl.federation.tasks import make_worker
from nc_medfl.federation.worker import LocalUpdate, Rows
from nc_medfl.networks import class_parameters
from nc_medfl.training.methods import get_method, join_extras
from nc_medfl.training.model import build_network

#: The name under which sites keep their state of this federation.
_RUN_ID = "0" * 32


@dataclass(frozen=True)
class LocalRound:
    """A finished round.

    Attributes:
        number: 1 for the first.
        sent: the model that it started from, parameters and buffers.
        model: the model that it gave, which the next round starts from.
        handed_out: what a federation that ends here hands out: ``model``, or the mean of the last few.
        updates: of the sites, by name; each holds what the site found of ``sent`` too.
    """

    number: int
    sent: dict[str, Tensor]
    model: dict[str, Tensor]
    handed_out: dict[str, Tensor]
    updates: dict[str, LocalUpdate]


@dataclass(frozen=True)
class LocalResult:
    """A finished federation.

    Attributes:
        best: the chosen round and its score; None where no round could be chosen, and the last was taken.
        round: the chosen one.
        model: the chosen model.
        last: the model after the last round.
        rows: the sites' own final metrics, as in ``metrics.csv``.
    """

    best: Chosen | None
    round: int
    model: dict[str, Tensor]
    last: dict[str, Tensor]
    rows: Rows


class LocalFederation:
    """The sites of a federation, open in this process.

    Args:
        settings: the job's.
        configs: of the sites, by name.
        state: folder for what sites keep from round to round.
        stores: of the sites, by name, where they are open already.

    Raises:
        UserError: if a store is missing or labelled for other findings.
    """

    def __init__(
        self,
        settings: JobSettings,
        configs: Mapping[str, SiteConfig],
        state: Path,
        stores: Mapping[str, Store] | None = None,
    ) -> None:
        self._start = build_network(settings, pretrained=True)
        self.settings = settings.for_sites()
        self.workers = {
            name: make_worker(self.settings, config, state / name, _RUN_ID, (stores or {}).get(name))
            for name, config in sorted(configs.items())
        }

    def models(self, model: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The models that a global one stands for: itself, or one a site where layers stay at the sites."""
        own = [worker.own() for worker in self.workers.values()]
        return [{**model, **layers} for layers in own] if any(own) else [dict(model)]

    def rounds(self, *, score: bool = True) -> Iterator[LocalRound]:
        """All rounds of the job, each as it ends.

        Args:
            score: have each site score the model before it trains it, as in FLARE; training is the same without.
        """
        model = {name: value.detach().clone() for name, value in self._start.state_dict().items()}
        controls = first_controls(self._start) if get_method(self.settings.method).has_memory else {}
        axes, weighting = class_parameters(self._start), self.settings.aggregation.weighting
        server = ServerStep(self.settings.aggregation, dict(self._start.named_parameters()))
        for number in range(self.settings.rounds):
            sent = join_extras(model, controls)
            updates = {name: worker.train(sent, number, score=score) for name, worker in self.workers.items()}
            parts = [SiteUpdate(name, u.params, u.n_samples, u.before.statistics) for name, u in updates.items()]
            controls = moved(controls, {name: update.extras for name, update in updates.items()}, len(updates))
            averaged = average(model, parts, weighting=weighting, class_axes=axes)
            before, model = model, server.step(model, averaged)
            yield LocalRound(number + 1, before, model, server.handed_out(model), updates)

    def run(self, *, on_round: Callable[[int], None] = lambda _number: None, or_last: bool = False) -> LocalResult:
        """All rounds, the choice of one on validation, and the final test at the sites.

        Args:
            on_round: called with the number of each round that has ended.
            or_last: take the last round where none can be chosen.

        Raises:
            RunFailed: if the score is undefined at every site in every round, unless ``or_last``.
        """
        best: Chosen | None = None
        chosen: dict[str, Tensor] = {}
        model: dict[str, Tensor] = {}
        for done in self.rounds():
            score = _score({name: update.before.rows for name, update in done.updates.items()})
            # The untrained model is never chosen.
            if done.number > 1 and _is_better(score, best):
                best, chosen = Chosen(done.number - 1, score), done.sent
            model = done.handed_out
            on_round(done.number)
        score = _score({name: worker.validate(model).rows for name, worker in self.workers.items()})
        if _is_better(score, best):
            best, chosen = Chosen(self.settings.rounds, score), model
        if best is None and or_last:
            chosen = model
        elif best is None:
            raise RunFailed("no round could be chosen: the macro AUC on validation is undefined at every site.")
        rows = [row for worker in self.workers.values() for row in worker.evaluate(chosen)]
        number = best.rounds if best else self.settings.rounds
        return LocalResult(best, number, chosen, model, rows)


def _is_better(score: Score, best: Chosen | None) -> bool:
    return score.mean is not None and (best is None or score.beats(best.score))


def _score(rows_of: Mapping[str, Rows]) -> Score:
    scores = {}
    for site, rows in rows_of.items():
        for row in rows:
            if (row["finding"], row["metric"]) == ("macro", "auc") and row["value"] is not None:
                scores[site] = float(row["value"])
    return Score({site: value for site, value in scores.items() if np.isfinite(value)})
