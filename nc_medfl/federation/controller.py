"""The server's workflow: rounds of training, the choice of a round, the final test at every site.

A model is numbered by the rounds it has been through: 0 is the initial one, R the last. Every site scores
the model it is sent on its own validation split before it trains, so the score of model r arrives with the
updates of round r + 1, and the last model is sent once more to be scored. The chosen model is the one with
the highest mean over sites of the macro AUC on validation; test splits play no part in that.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.fedavg import FedAvg

from nc_medfl.config import JobSettings
from nc_medfl.data.store import write_json
from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import RefusedUpdate
from nc_medfl.federation.arguments import from_arguments
from nc_medfl.federation.class_statistics import Row, SiteStatistics
from nc_medfl.federation.roundlog import RoundLog
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import build_network, fingerprints, save_model


class FederationController(FedAvg):  # type: ignore[misc]  # nvflare ships no types
    """FLARE's FedAvg with a choice of the best round and a final evaluation at the sites.

    Args:
        settings: what :func:`nc_medfl.federation.arguments.to_arguments` makes of the job's settings; the
            others are those of FLARE's ``FedAvg``.
    """

    def __init__(self, *args: Any, settings: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings

    def run(self) -> None:
        """The whole federation; called by FLARE."""
        job = from_arguments(self.settings)
        prints = fingerprints(build_network(job), load_vocabulary(job.vocabulary))
        log = RoundLog(Path(self.get_run_dir()) / keys.RESULTS_FOLDER)
        log.progress(event="started", rounds=job.rounds)
        model = self.load_model()
        model.start_round, model.total_rounds = 0, job.rounds
        best: tuple[float, int] | None = None
        for self.current_round in range(job.rounds):
            rounds = self.current_round
            sent = dict(model.params)
            answers = self._train_once(model)
            score = self._log_round(log, rounds, answers)
            best = self._keep_if_best(log.folder, best, score, rounds, sent, job, prints)
            result = self.aggregator.aggregate_model()
            result.meta = {"current_round": self.current_round}
            self.fire_event_with_data(
                AppEventType.AFTER_AGGREGATION, self.fl_ctx, AppConstants.AGGREGATION_RESULT, result
            )
            model = self.update_model(model, result)
            self.save_model(model)
            save_model(log.folder / keys.LAST_MODEL, model.params, job, rounds=rounds + 1, prints=prints)
            log.progress(event="round", round=rounds + 1, rounds=job.rounds, score=score if rounds else None)
        best = self._score_last(log, model, best, job, prints)
        self._evaluate(log, model, best)

    def _train_once(self, model: FLModel) -> list[FLModel]:
        """One round: every site trains; accepted updates are in the aggregator afterwards.

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

        self._send(keys.TASK_TRAIN, model, accept)
        return answers

    def _send(self, task: str, model: FLModel, callback: Any) -> list[str]:
        targets = [client.name for client in self.engine.get_clients()]
        self.send_model(task_name=task, targets=targets, data=model, callback=callback)
        while self.get_num_standing_tasks():
            if self.abort_signal.triggered:
                raise RuntimeError(f"stopped during {task}")
            time.sleep(self._task_check_period)
        if self.abort_signal.triggered:
            raise RuntimeError(f"stopped during {task}")
        return targets

    def _fits(self, answer: FLModel) -> bool:
        try:
            self.aggregator.read_report(answer.meta)
        except RefusedUpdate:
            return False
        return True

    def _ask(self, task: str, model: FLModel) -> list[FLModel]:
        answers: list[FLModel] = []

        def keep(answer: FLModel) -> bool:
            answers.append(answer)
            return True

        self._send(task, model, keep)
        return sorted(answers, key=_site)

    def _log_round(self, log: RoundLog, rounds: int, answers: list[FLModel]) -> float | None:
        """Write down a training round; give the score of the model that was sent."""
        answers = sorted(answers, key=_site)
        for answer in answers:
            losses = json.loads(answer.meta.get(keys.LOSSES, "{}"))
            rows = [
                {"site": _site(answer), "split": "train", "finding": "all", "metric": name, "value": value}
                for name, value in losses.items()
            ]
            log.add(keys.ROUNDS_CSV, rounds + 1, rows)
        log.add(keys.UPDATES_CSV, rounds + 1, sorted(self.aggregator.log, key=lambda row: str(row["site"])))
        log.add(keys.COLLAPSE_CSV, rounds, self.aggregator.statistics_rows())
        return self._log_validation(log, rounds, answers)

    @staticmethod
    def _log_validation(log: RoundLog, rounds: int, answers: list[FLModel]) -> float | None:
        """Write the sites' validation rows; give the mean over sites of the macro AUC."""
        scores = []
        for answer in answers:
            rows = [{"site": _site(answer), **row} for row in json.loads(answer.meta.get(keys.ROWS, "[]"))]
            log.add(keys.ROUNDS_CSV, rounds, rows)
            scores += [r["value"] for r in rows if (r["finding"], r["metric"]) == ("macro", "auc")]
        defined = [score for score in scores if score is not None and np.isfinite(score)]
        mean = float(np.mean(defined)) if defined else None
        reason = "" if defined else "undefined at every site"
        row = {"site": "all", "split": "val", "finding": "macro", "metric": "auc", "value": mean, "reason": reason}
        log.add(keys.ROUNDS_CSV, rounds, [row])
        return mean

    def _keep_if_best(
        self,
        folder: Path,
        best: tuple[float, int] | None,
        score: float | None,
        rounds: int,
        params: dict[str, Any],
        job: JobSettings,
        prints: dict[str, str],
    ) -> tuple[float, int] | None:
        # The untrained model is scored for the record, and never chosen.
        if score is None or rounds == 0 or (best is not None and score <= best[0]):
            return best
        save_model(folder / keys.BEST_MODEL, params, job, rounds=rounds, prints=prints)
        return score, rounds

    def _score_last(
        self,
        log: RoundLog,
        model: FLModel,
        best: tuple[float, int] | None,
        job: JobSettings,
        prints: dict[str, str],
    ) -> tuple[float, int] | None:
        """Score the last model, which no round of training follows."""
        model.current_round = job.rounds
        answers = [answer for answer in self._ask(keys.TASK_VALIDATE, model) if self._fits(answer)]
        log.add(keys.COLLAPSE_CSV, job.rounds, self.aggregator.statistics_rows(self._statistics(answers)))
        score = self._log_validation(log, job.rounds, answers)
        log.progress(event="validated", round=job.rounds, score=score)
        return self._keep_if_best(log.folder, best, score, job.rounds, dict(model.params), job, prints)

    def _statistics(self, answers: list[FLModel]) -> list[SiteStatistics]:
        parts = []
        for answer in answers:
            try:
                parts.append(self.aggregator.statistics_of(answer.meta))
            except RefusedUpdate as reason:
                self.warning(f"class statistics of {_site(answer)} refused: {reason}")
        return parts

    def _tested(self, answer: FLModel) -> list[Row]:
        try:
            rows: list[Row] = self.aggregator.read_test(answer.meta)
        except RefusedUpdate as reason:
            self.warning(f"final metrics of {_site(answer)} refused: {reason}")
            return []
        return rows

    def _evaluate(self, log: RoundLog, model: FLModel, best: tuple[float, int] | None) -> None:
        """Have every site test the chosen model at home, and write down the numbers that come back."""
        if best is None:
            raise RuntimeError("no round could be chosen: the macro AUC on validation is undefined at every site")
        score, rounds = best
        log.progress(event="evaluating", round=rounds, score=score)
        chosen = torch.load(log.folder / keys.BEST_MODEL, weights_only=True)
        model.params = chosen["state_dict"]
        rows = [row for answer in self._ask(keys.TASK_EVALUATE, model) for row in self._tested(answer)]
        write_json(log.folder / keys.SITE_METRICS, {"rows": rows})
        write_json(
            log.folder / keys.SUMMARY,
            {"best_round": rounds, "best_score": score, "fingerprints": chosen["fingerprints"]},
        )
        log.progress(event="finished", round=rounds, score=score)


def _site(answer: FLModel) -> str:
    return str(answer.meta.get("client_name", ""))
