"""One task given to every site, and what became of it at each."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from nvflare.apis.controller_spec import ClientTask, TaskCompletionStatus
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg

from nc_medfl.config import FederationSettings
from nc_medfl.errors import SiteFailed
from nc_medfl.federation import keys
from nc_medfl.federation.wire import own_meta, payload_bytes, to_wire

#: Takes an answer; says whether it was accepted.
Take = Callable[[FLModel], bool]

FAILED, LATE, MISSING, UNUSED = "failed", "late", "missing", "unused"
_UNREADABLE = "its answer could not be read"


@dataclass
class Exchange:
    """A task and the sites' answers.

    Attributes:
        targets: sites that it is for.
        gone: sites of this job that FLARE has lost; they are not asked.
        taken: sites that have fetched it.
        answered: sites that answered, and whether the answer was accepted.
        failed: sites whose task failed, with the reason.
        seconds: how long it stood.
        bytes_down: of the numbers that each site was sent.
    """

    targets: tuple[str, ...]
    gone: tuple[str, ...] = ()
    taken: set[str] = field(default_factory=set)
    answered: dict[str, bool] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    bytes_down: int = 0

    @property
    def accepted(self) -> int:
        """Sites whose answer was accepted."""
        return sum(self.answered.values())

    def absent(self) -> dict[str, tuple[str, str]]:
        """Outcome and reason of every site without an answer, by name."""
        found = dict.fromkeys(self.gone, (MISSING, "FLARE has lost its client"))
        for site in self.targets:
            if site in self.failed:
                found[site] = (FAILED, self.failed[site])
            elif site not in self.answered:
                found[site] = self._without_answer(site)
        return dict(sorted(found.items()))

    def _without_answer(self, site: str) -> tuple[str, str]:
        if site in self.taken:
            return LATE, f"it took the model and had not answered after {self.seconds:.0f} s"
        return MISSING, f"it did not ask for the model within {self.seconds:.0f} s"

    def is_enough(self, min_sites: int | None) -> bool:
        """Whether the round can be closed: ``min_sites`` accepted answers, or any answer of every site for None."""
        if min_sites is None:
            return not self.absent()
        return self.accepted >= min_sites


class WaitingController(FedAvg):  # type: ignore[misc]  # nvflare ships no types
    """FLARE's FedAvg with a quorum: a task ends when enough sites have answered and the others have had a while.

    FLARE's own ``min_responses`` counts a failed or refused answer as an answer, so the counting is done here.
    """

    waiting = FederationSettings()
    transfer = "float32"
    _exchange: Exchange | None = None

    def _ask_sites(self, task: str, model: FLModel, take: Take) -> Exchange:
        """Give a task to every site there is now, and wait until it ends.

        Raises:
            SiteFailed: if every site is needed, and one failed.
            RuntimeError: if the job is stopped meanwhile.
        """
        self._ignore_result_error = self.waiting.min_sites is not None
        everyone = sorted(client.name for client in self.engine.get_clients())
        gone = tuple(name for name in everyone if self.get_client_disconnect_time(name))
        exchange = Exchange(tuple(name for name in everyone if name not in gone), gone)
        self._exchange = exchange
        started = time.monotonic()
        if exchange.targets:
            self._send(task, model, exchange.targets, lambda answer: self._note(exchange, answer, take))
            self._wait(task, exchange)
        exchange.seconds = time.monotonic() - started
        return exchange

    def _send(self, task: str, model: FLModel, targets: Collection[str], callback: Take) -> None:
        if self._exchange is not None:
            self._exchange.bytes_down = payload_bytes(to_wire(model.params or {}, self.transfer), own_meta(model.meta))
        self.broadcast_model(
            model,
            task_name=task,
            targets=list(targets),
            timeout=self.waiting.round_timeout or 0,
            blocking=False,
            callback=callback,
        )

    def _wait(self, task: str, exchange: Exchange) -> None:
        enough_since: float | None = None
        needed = self.waiting.min_sites
        while self.get_num_standing_tasks():
            if self.abort_signal.triggered:
                break
            if needed is not None and exchange.accepted >= needed:
                enough_since = enough_since or time.monotonic()
                if time.monotonic() - enough_since >= self.waiting.grace:
                    self.cancel_all_tasks(TaskCompletionStatus.OK, self.fl_ctx)
            time.sleep(self._task_check_period)
        if self.abort_signal.triggered:
            # Where every site is needed, FLARE stops the job at the first that fails.
            if exchange.failed and needed is None:
                told = "; ".join(f"{site}: {task} failed ({why})" for site, why in sorted(exchange.failed.items()))
                raise SiteFailed(f"{told}. The job needs every site (federation.min_sites).")
            raise RuntimeError(f"stopped during {task}")

    @staticmethod
    def _note(exchange: Exchange, answer: FLModel, take: Take) -> bool:
        site = site_of(answer)
        accepted = take(answer)
        exchange.answered[site] = accepted
        exchange.failed.pop(site, None)
        return accepted

    def _prepare_task_data(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        if self._exchange is not None:
            self._exchange.taken.add(client_task.client.name)
        super()._prepare_task_data(client_task, fl_ctx)

    def _accept_train_result(
        self, client_name: str, result: Shareable, fl_ctx: FLContext, is_unknown_task: bool = False
    ) -> bool:
        if not is_unknown_task and self._exchange is not None:
            code = result.get_return_code()
            # Taken back when the answer has been read.
            reason = _UNREADABLE if code in (None, ReturnCode.OK) else _reason(result, code)
            self._exchange.failed[client_name] = reason
        accepted: bool = super()._accept_train_result(client_name, result, fl_ctx, is_unknown_task)
        return accepted

    def process_result_of_unknown_task(
        self, client: Any, task_name: str, _client_task_id: str, _result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Drop an answer that comes after its round was closed."""
        self.log_info(fl_ctx, f"{task_name} of {client.name} came after it was closed; it is not used")


def _reason(result: Shareable, code: str) -> str:
    """Why a task failed, as the site puts it: a few words, never a message, which could name a path."""
    told = result.get_header(keys.FAILURE)
    if not isinstance(told, str) or not told:
        return code
    return re.sub(r"[^\w ().,;-]", "", told)[:120]


def site_of(answer: FLModel) -> str:
    """The site that an answer came from, as FLARE knows it."""
    return str(answer.meta.get("client_name", ""))
