"""The server's side of a job that asks every site one thing."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from pathlib import Path
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs

from nc_medfl.config import JobSettings
from nc_medfl.data.store import write_json
from nc_medfl.errors import RunFailed
from nc_medfl.federation import keys
from nc_medfl.federation.arguments import from_arguments
from nc_medfl.federation.exchange import Exchange, WaitingController, site_of
from nc_medfl.federation.roundlog import RoundLog, results_folder


class QuestionController(WaitingController):
    """Asks every site one thing, with the quorum, time limit and repetitions of any other job.

    Args:
        settings: what :func:`nc_medfl.federation.arguments.to_arguments` makes of the job's settings.
    """

    #: The task that the sites are given.
    task = ""

    def __init__(self, *args: Any, settings: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.waiting = from_arguments(settings).federation
        fobs.register(TensorDecomposer)  # no persistor of FLARE's does it here

    @abstractmethod
    def question(self, job: JobSettings) -> FLModel:
        """What to send.

        Raises:
            UserError: if the job lacks what it takes.
        """

    @abstractmethod
    def take(self, job: JobSettings, answers: dict[str, FLModel], absent: dict[str, str], folder: Path) -> None:
        """Write what the sites answered into the results folder.

        Args:
            job: the settings.
            answers: by site.
            absent: sites without an answer, with the reason.
            folder: the results folder.
        """

    def run(self) -> None:
        """The whole job; called by FLARE."""
        with results_folder(self.get_run_dir()) as results:
            self._run(results)

    def _run(self, results: Path) -> None:
        job = from_arguments(self.settings)
        log = RoundLog(results)
        log.progress(event="started", rounds=1)
        model = self.question(job)
        model.current_round, model.total_rounds = 0, 1
        model.meta = {**(model.meta or {}), keys.RUN_ID: uuid.uuid4().hex}
        answers, exchange = self._ask(model)
        absent = {site: reason for site, (_, reason) in exchange.absent().items()}
        if not exchange.is_enough(self.waiting.min_sites) or not answers:
            told = "; ".join(f"{site}: {reason}" for site, reason in absent.items())
            raise RunFailed(
                f"too few sites answered ({told or 'no answer was of use'}). Mend them and run the job again."
            )
        self.take(job, answers, absent, results)
        outcomes = dict.fromkeys(answers, "answered") | {s: o for s, (o, _) in exchange.absent().items()}
        write_json(results / keys.SUMMARY, {"sites": outcomes})
        log.progress(event="finished", sites=dict(sorted(outcomes.items())))

    def _ask(self, model: FLModel) -> tuple[dict[str, FLModel], Exchange]:
        answers: dict[str, FLModel] = {}

        def keep(answer: FLModel) -> bool:
            answers[site_of(answer)] = answer
            return True

        for _attempt in range(self.waiting.retries + 1):
            answers.clear()
            exchange = self._ask_sites(self.task, model, keep)
            if exchange.is_enough(self.waiting.min_sites):
                break
        return dict(sorted(answers.items())), exchange
