"""The server's workflow: rounds of training, the choice of a round, the final test at every site.

A model is numbered by the rounds it has been through: 0 is the initial one, R the last. Every site scores
the model it is sent on its own validation split before it trains, so the score of model r arrives with the
updates of round r + 1, and the last model is sent once more to be scored. The chosen model is the one with
the highest mean over sites of the macro AUC on validation; test splits play no part in that.

A site that is late, fails or is gone costs its update, where ``federation.min_sites`` says how many are enough.
After every round the state is put on disk, while the sites are at the next one, and a job that is started again goes on
from there.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from nc_medfl.config import JobSettings
from nc_medfl.data.store import write_json
from nc_medfl.errors import RunFailed
from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import RefusedUpdate
from nc_medfl.federation.arguments import from_arguments
from nc_medfl.federation.background import Background
from nc_medfl.federation.choice import Chosen, Score
from nc_medfl.federation.class_statistics import Row, SiteStatistics
from nc_medfl.federation.exchange import UNUSED, Exchange, WaitingController, site_of
from nc_medfl.federation.federation_wide import write_federation
from nc_medfl.federation.memory import give_back, set_aside
from nc_medfl.federation.privacy import privacy_rows
from nc_medfl.federation.roundlog import RoundLog, results_folder
from nc_medfl.federation.server_step import ServerStep
from nc_medfl.federation.site_tables import write_site_tables
from nc_medfl.federation.state import RoundStore, link_or_copy, replace_by_link, state_folder
from nc_medfl.federation.tested import read_tests, untested_rows
from nc_medfl.federation.tracking import Tracker
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import build_network, fingerprints, save_model


@dataclass
class _Run:
    """What the steps of one federation share."""

    job: JobSettings
    prints: dict[str, str]
    log: RoundLog
    store: RoundStore
    run_id: str
    server: ServerStep
    best: Chosen | None = None
    finished: int = 0
    background: Background = field(default_factory=Background)


class FederationController(WaitingController):
    """FLARE's FedAvg with a quorum, a choice of the best round, a final evaluation, and a memory.

    Args:
        settings: what :func:`nc_medfl.federation.arguments.to_arguments` makes of the job's settings; the
            others are those of FLARE's ``FedAvg``.
    """

    def __init__(self, *args: Any, settings: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings
        job = from_arguments(settings)
        self.waiting, self.transfer = job.federation, job.transfer

    def run(self) -> None:
        """The whole federation; called by FLARE."""
        with results_folder(self.get_run_dir()) as results:
            self._run(results)

    def _run(self, results: Path) -> None:
        model = self.load_model()
        run = self._begin(results, model)
        model.start_round, model.total_rounds = 0, run.job.rounds
        set_aside()
        with run.background:
            for self.current_round in range(run.finished, run.job.rounds):
                model = self._round(run, model)
                run.background.begin(partial(self._keep, run, dict(model.params), self.current_round + 1, run.best))
        self._hand_out(run, model)
        self._score_last(run, model)
        self._evaluate(run, model)
        run.store.forget()
        for path in run.server.files(results):
            path.unlink()

    def _begin(self, results: Path, model: FLModel) -> _Run:
        """Start afresh, or put tables and models back as they were after the last finished round."""
        job = from_arguments(self.settings)
        workspace = Path(self.engine.get_workspace().get_root_dir())
        store = RoundStore(state_folder(workspace, "server"), job, str(self.fl_ctx.get_job_id()))
        saved = store.find()
        log = RoundLog(results, saved.folder if saved else None)
        if job.tracking != "none":
            log.listener = Tracker(self)
        network = build_network(job)
        prints = fingerprints(network, load_vocabulary(job.vocabulary))
        server = ServerStep(job.aggregation, dict(network.named_parameters()))
        run = _Run(job, prints, log, store, saved.run_id if saved else uuid.uuid4().hex, server)
        if saved:
            run.best, run.finished = saved.best, saved.rounds
            model.params = saved.params()
            for name in saved.files():
                (results / name).unlink(missing_ok=True)
                link_or_copy(saved.folder / name, results / name)
            if server.has_memory:
                server.read(results)
            self.info(f"going on after round {saved.rounds}")
        log.progress(event="started", rounds=job.rounds, **({"resumed_after": run.finished} if saved else {}))
        model.meta = {**(model.meta or {}), keys.RUN_ID: run.run_id}
        return run

    def _round(self, run: _Run, model: FLModel) -> FLModel:
        """Send a model for training; give the next one."""
        sent, rounds = dict(model.params), self.current_round
        answers, exchange = self._train(run, model)
        score, event = self._log_round(run.log, rounds, answers, exchange)
        self._keep_if_best(run, score, rounds)
        result = self.aggregator.aggregate_model()
        if run.server.has_memory and exchange.accepted:
            result.params = run.server.step(sent, result.params)
        result.meta = {"current_round": rounds, keys.RUN_ID: run.run_id}
        self.fire_event_with_data(AppEventType.AFTER_AGGREGATION, self.fl_ctx, AppConstants.AGGREGATION_RESULT, result)
        model = self.update_model(model, result)
        give_back()
        run.log.progress(event="round", round=rounds + 1, rounds=run.job.rounds, **event)
        return model

    @staticmethod
    def _keep(run: _Run, params: dict[str, Any], rounds: int, best: Chosen | None) -> None:
        """Put the state after a round on disk; the tables must not grow meanwhile.

        Raises:
            OSError: if the disk is full; the round before is then still there.
        """
        folder = run.log.folder
        save_model(folder / keys.LAST_MODEL, params, run.job, rounds=rounds, prints=run.prints)
        if str(rounds) in os.environ.get(keys.ENV_KEEP_MODELS, "").split(","):
            name = keys.ROUND_MODEL.format(rounds)
            save_model(folder / name, run.server.handed_out(params), run.job, rounds=rounds, prints=run.prints)
        if run.server.has_memory:
            run.server.write(folder)
        run.store.save(folder, rounds, best, run.run_id)

    def _train(self, run: _Run, model: FLModel) -> tuple[list[FLModel], Exchange]:
        """One round, repeated while too few sites answer.

        Raises:
            RunFailed: if too few answered however often it was tried.
        """
        for attempt in range(self.waiting.retries + 1):
            answers, exchange = self._train_once(model)
            run.background.finish()  # the round before is on disk, and its tables may grow
            if exchange.is_enough(self.waiting.min_sites):
                return answers, exchange
            self._log_short(run.log, attempt, exchange)
        raise RunFailed(_too_few(run, self.current_round + 1, self.waiting.retries + 1, exchange))

    def _train_once(self, model: FLModel) -> tuple[list[FLModel], Exchange]:
        """Every site trains; accepted updates are in the aggregator afterwards.

        Returns:
            The answers without their parameters, of every site that speaks of this model: a site whose update
            is refused for a NaN has still scored the model it was sent, and counts in each round's mean alike.
        """
        model.current_round = self.current_round
        self.fl_ctx.set_prop(AppConstants.CURRENT_ROUND, self.current_round, private=True, sticky=False)
        self.event(AppEventType.ROUND_STARTED)
        self.aggregator.reset_stats()
        self.aggregator.set_previous(model.params)
        answers: list[FLModel] = []

        def accept(answer: FLModel) -> bool:
            # FLARE tells handlers that the update was not accepted when this returns False.
            accepted = True
            try:
                self.aggregator.accept_model(answer)
            except RefusedUpdate:
                accepted = False
            answer.params = {}
            answer.meta.pop(keys.FEATURE_SUMS, None)  # in the aggregator's sums by now
            if self._fits(answer):
                answers.append(answer)
            return accepted

        exchange = self._ask_sites(keys.TASK_TRAIN, model, accept)
        # Some can be judged beside the others only.
        for row in self.aggregator.log:
            if row["outcome"] == "refused":
                exchange.answered[str(row["site"])] = False
        return sorted(answers, key=site_of), exchange

    def _fits(self, answer: FLModel) -> bool:
        try:
            self.aggregator.read_report(answer.meta)
        except RefusedUpdate:
            return False
        return True

    def _ask(self, task: str, model: FLModel) -> tuple[list[FLModel], Exchange]:
        """Ask for something other than training; after the last attempt, what has come is all there is."""
        answers: list[FLModel] = []

        def keep(answer: FLModel) -> bool:
            answers.append(answer)
            return True

        for _attempt in range(self.waiting.retries + 1):
            answers.clear()
            exchange = self._ask_sites(task, model, keep)
            if exchange.is_enough(self.waiting.min_sites):
                break
        return sorted(answers, key=site_of), exchange

    def _log_short(self, log: RoundLog, attempt: int, exchange: Exchange) -> None:
        """Write down an attempt at a round that too few sites answered; nothing of it is used."""
        rows = []
        for row in self._update_rows(exchange):
            if row["outcome"] == "accepted":
                row |= {"outcome": UNUSED, "reason": f"too few sites answered attempt {attempt + 1}"}
            rows.append(row)
        log.add(keys.UPDATES_CSV, self.current_round + 1, rows)
        log.progress(
            event="repeat", round=self.current_round + 1, attempt=attempt + 1, sites=_outcomes(rows), score=None
        )

    def _update_rows(self, exchange: Exchange) -> list[Row]:
        """Every site's update, or what became of it, by name."""
        rows = [dict(row) for row in self.aggregator.log]
        told = {row["site"] for row in rows}
        rows += [
            {"site": site, "outcome": outcome, "reason": reason, "n_samples": None}
            for site, (outcome, reason) in exchange.absent().items()
            if site not in told
        ]
        for row in rows:
            row["bytes_down"] = exchange.bytes_down if row["site"] in exchange.taken else 0
        return sorted(rows, key=lambda row: str(row["site"]))

    def _log_round(
        self, log: RoundLog, rounds: int, answers: list[FLModel], exchange: Exchange
    ) -> tuple[Score, dict[str, Any]]:
        """Write down a training round.

        Returns:
            The score of the model that was sent, and what to tell whoever watches.
        """
        losses: dict[str, dict[str, Any]] = {}
        for answer in answers:
            losses[site_of(answer)] = json.loads(answer.meta.get(keys.LOSSES, "{}"))
            rows = [
                {"site": site_of(answer), "split": "train", "finding": "all", "metric": name, "value": value}
                for name, value in losses[site_of(answer)].items()
            ]
            log.add(keys.ROUNDS_CSV, rounds + 1, rows)
        log.add(keys.PRIVACY_CSV, rounds + 1, _privacy(answers))
        updates = self._update_rows(exchange)
        log.add(keys.UPDATES_CSV, rounds + 1, updates)
        collapse = self.aggregator.statistics_rows()
        log.add(keys.COLLAPSE_CSV, rounds, collapse)
        log.add(keys.ROUNDS_CSV, rounds, self.aggregator.site_collapse())
        score = self._log_validation(log, rounds, answers)
        told = {site: values.get("loss") for site, values in losses.items()}
        event = {
            "score": score.mean if rounds else None,
            "sites": _outcomes(updates),
            "losses": told,
            "loss": _mean(told.values()),
            "auc": dict(score.by_site),
            "nc1": _nc1(collapse),
        }
        return score, event

    @staticmethod
    def _log_validation(log: RoundLog, rounds: int, answers: list[FLModel]) -> Score:
        """Write the sites' validation rows; give the macro AUC of each, where it is defined."""
        scores: dict[str, float] = {}
        for answer in answers:
            rows = [{"site": site_of(answer), **row} for row in json.loads(answer.meta.get(keys.ROWS, "[]"))]
            log.add(keys.ROUNDS_CSV, rounds, rows)
            for row in rows:
                value = row["value"]
                if (row["finding"], row["metric"]) == ("macro", "auc") and value is not None and np.isfinite(value):
                    scores[site_of(answer)] = float(value)
        score = Score(scores)
        reason = "" if scores else "undefined at every site"
        row = {"site": "all", "split": "val", "finding": "macro", "metric": "auc", "value": score.mean}
        log.add(keys.ROUNDS_CSV, rounds, [{**row, "reason": reason}])
        return score

    @staticmethod
    def _keep_if_best(run: _Run, score: Score, rounds: int) -> None:
        # The untrained model is scored for the record, and never chosen.
        if score.mean is None or rounds == 0 or (run.best is not None and not score.beats(run.best.score)):
            return
        # What was scored is what was sent, and that was written down last.
        replace_by_link(run.log.folder / keys.LAST_MODEL, run.log.folder / keys.BEST_MODEL)
        run.best = Chosen(rounds, score)

    def _hand_out(self, run: _Run, model: FLModel) -> None:
        """Put the mean of the last models in the place of the last one, where the job wants that."""
        if run.job.aggregation.average_last > 1:
            model.params = run.server.handed_out(model.params)
            save_model(
                run.log.folder / keys.LAST_MODEL, model.params, run.job, rounds=run.job.rounds, prints=run.prints
            )
        # FLARE's own file of it, once: as ours is written in every round, a second would be for nobody.
        self.save_model(model)

    def _score_last(self, run: _Run, model: FLModel) -> None:
        """Score the last model, which no round of training follows."""
        rounds = run.job.rounds
        model.current_round = rounds
        given, exchange = self._ask(keys.TASK_VALIDATE, model)
        answers = [answer for answer in given if self._fits(answer)]
        statistics = self._statistics(answers)
        collapse = self.aggregator.statistics_rows(list(statistics.values()))
        run.log.add(keys.COLLAPSE_CSV, rounds, collapse)
        for site, part in statistics.items():
            run.log.add(keys.ROUNDS_CSV, rounds, self.aggregator.collapse_of(site, part))
        # What this last look at the sites cost stands as a round of its own.
        run.log.add(keys.PRIVACY_CSV, rounds + 1, _privacy(answers))
        score = self._log_validation(run.log, rounds, answers)
        run.log.progress(
            event="validated",
            round=rounds,
            score=score.mean,
            sites=_presence(exchange),
            auc=dict(score.by_site),
            nc1=_nc1(collapse),
        )
        self._keep_if_best(run, score, rounds)

    def _statistics(self, answers: list[FLModel]) -> dict[str, SiteStatistics]:
        parts: dict[str, SiteStatistics] = {}
        for answer in answers:
            try:
                parts[site_of(answer)] = self.aggregator.statistics_of(answer.meta)
            except RefusedUpdate as reason:
                self.warning(f"class statistics of {site_of(answer)} refused: {reason}")
        return parts

    def _evaluate(self, run: _Run, model: FLModel) -> None:
        """Have every site test the chosen model at home, and write down the numbers that come back."""
        if run.best is None:
            raise RunFailed("no round could be chosen: the macro AUC on validation is undefined at every site.")
        rounds, score = run.best.rounds, run.best.score.mean
        run.log.progress(event="evaluating", round=rounds, score=score)
        chosen = torch.load(run.log.folder / keys.BEST_MODEL, weights_only=True)
        model.params = chosen["state_dict"]
        answers, exchange = self._ask(keys.TASK_EVALUATE, model)
        if not answers:
            raise RunFailed("no site answered the final test. The models are kept; resume the job to test again.")
        told = {site_of(answer): answer.meta for answer in answers}
        rows, metas, refused = read_tests(told, self.aggregator.read_test, self.warning)
        absent = {site: f"no final test: {reason}" for site, (_, reason) in exchange.absent().items()}
        for site, reason in {**refused, **absent}.items():
            rows += untested_rows(run.job, site, reason)
        write_json(run.log.folder / keys.SITE_METRICS, {"rows": rows})
        write_federation(run.log.folder, metas, rows, run.job, self.warning)
        write_site_tables(run.log.folder, metas, run.job, self.warning)
        write_json(
            run.log.folder / keys.SUMMARY,
            {"best_round": rounds, "best_score": score, "fingerprints": chosen["fingerprints"]},
        )
        run.log.progress(event="finished", round=rounds, score=score, sites=_presence(exchange))


def _too_few(run: _Run, number: int, attempts: int, exchange: Exchange) -> str:
    needed = run.job.federation.min_sites
    wanted = f"federation.min_sites asks for {needed}" if needed else "every site is needed (federation.min_sites)"
    absent = ", ".join(f"{site} {outcome} ({why})" for site, (outcome, why) in exchange.absent().items())
    return (
        f"round {number}: {exchange.accepted} usable updates in each of {attempts} attempts, and {wanted}"
        f"{': ' + absent if absent else ''}. Mend the sites and resume, or ask for fewer."
    )


def _privacy(answers: list[FLModel]) -> list[Row]:
    return [row for answer in answers for row in privacy_rows(site_of(answer), answer.meta.get(keys.PRIVACY))]


def _outcomes(rows: list[Row]) -> dict[str, str]:
    return {str(row["site"]): str(row["outcome"]) for row in rows}


def _presence(exchange: Exchange) -> dict[str, str]:
    answered = dict.fromkeys(exchange.answered, "answered")
    return dict(sorted({**answered, **{site: outcome for site, (outcome, _) in exchange.absent().items()}}.items()))


def _nc1(rows: list[Row]) -> float | None:
    found = [row.get("value") for row in rows if (row.get("finding"), row.get("metric")) == ("all", "nc1")]
    return float(found[0]) if found and found[0] is not None and np.isfinite(found[0]) else None


def _mean(values: Any) -> float | None:
    told = [float(value) for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(told)) if told else None
