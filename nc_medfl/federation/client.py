"""The FLARE side of a site: takes a task, has a trainer do it, sends the answer."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs

from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.data.usage import record_use
from nc_medfl.errors import UserError
from nc_medfl.federation import keys
from nc_medfl.federation.arguments import from_arguments
from nc_medfl.federation.audit import AuditTrail, audit_file, sent, started
from nc_medfl.federation.memory import give_back, set_aside
from nc_medfl.federation.policy import UNKNOWN_SETTINGS, Refusal, check_job
from nc_medfl.federation.privacy import describe
from nc_medfl.federation.site import find_site_config, needed_for_training, open_site
from nc_medfl.federation.state import state_folder
from nc_medfl.federation.tasks import TASKS, Answer, Task, in_few_words
from nc_medfl.federation.trainers import Trainer, make_trainer
from nc_medfl.federation.turns import turn
from nc_medfl.labels import load_vocabulary


class SiteExecutor(Executor):  # type: ignore[misc]  # nvflare ships no types
    """Has a site's tasks done, in this process or in one of their own (:mod:`nc_medfl.federation.trainers`).

    If a task fails, the reason stays in this site's workspace (``nc_medfl_error.json`` and the log); the
    server learns only that it failed, since a message could name a path.

    Args:
        settings: what :func:`nc_medfl.federation.arguments.to_arguments` makes of the job's settings.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self._trainer: Trainer | None = None
        self._audit: AuditTrail | None = None
        fobs.register(TensorDecomposer)  # before the first task, which holds tensors

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Get ready for a job, before its first task."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.START_RUN:
            set_aside()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Do one task: ``train``, ``validate``, ``evaluate`` or ``label_statistics``."""
        if task_name not in TASKS:
            if self._audit:
                self._audit.add("refused", task=task_name[:64], told="unknown task")
            return make_reply(ReturnCode.TASK_UNKNOWN)
        give_back()  # what the task before has left
        try:
            model = FLModelUtils.from_shareable(shareable)
            run_id = str((model.meta or {}).get(keys.RUN_ID, ""))
            task = Task(task_name, model.params or {}, int(model.current_round or 0), run_id)
            trainer = self._trainer_for(fl_ctx)
            with turn():
                answer = trainer.do(task, lambda: bool(abort_signal.triggered))
            if self._audit:
                self._audit.add("answered", task=task_name, round=task.round_number, **sent(answer, task.params))
        except Exception as error:
            if abort_signal.triggered:
                return make_reply(ReturnCode.TASK_ABORTED)
            with suppress(OSError, UserError):  # a full disk must not hide what failed
                self._keep_error(task_name, error, fl_ctx)
                if self._audit:
                    event = "refused" if isinstance(error, Refusal) else "failed"
                    self._audit.add(event, task=task_name, told=in_few_words(error))
            self.log_exception(fl_ctx, f"task {task_name} failed")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION, headers={keys.FAILURE: in_few_words(error)})
        if abort_signal.triggered:
            return make_reply(ReturnCode.TASK_ABORTED)
        return FLModelUtils.to_shareable(_as_model(answer))

    def _trainer_for(self, fl_ctx: FLContext) -> Trainer:
        if self._trainer is None:
            site = fl_ctx.get_identity_name()
            workspace = fl_ctx.get_engine().get_workspace()
            root = Path(workspace.get_root_dir())
            config = find_site_config(site, root)
            settings = self._allowed(config, fl_ctx)
            self._note_use(settings, config, fl_ctx)
            run_dir, job_id = Path(workspace.get_run_dir(fl_ctx.get_job_id())), str(fl_ctx.get_job_id())
            self._trainer = make_trainer(settings, config, state_folder(root, site), run_dir, job_id)
        return self._trainer

    def _allowed(self, config: SiteConfig, fl_ctx: FLContext) -> JobSettings:
        """The job's settings, once the site's policy has let it in; the audit trail tells of it either way."""
        first = self._audit is None
        about = {"site": config.name, "job": str(fl_ctx.get_job_id())}
        self._audit = AuditTrail(audit_file(config.store, config.privacy.audit), about)
        meta = fl_ctx.get_prop(FLContextKey.JOB_META)
        try:
            settings = from_arguments(self.settings)
        except UserError as error:
            raise Refusal(UNKNOWN_SETTINGS, f"site {config.name} refuses the job: {error}") from error
        store = open_site(config, load_vocabulary(settings.vocabulary), settings.image_size, needed_for_training)
        told = started(
            meta if isinstance(meta, dict) else {},
            settings.for_sites().model_dump(mode="json"),
            describe(config.privacy),
        )
        if first:  # a site that refuses is asked again every round
            self._audit.add("job", **told)
        check_job(settings, config, store)
        return settings

    def _note_use(self, settings: JobSettings, config: SiteConfig, fl_ctx: FLContext) -> None:
        """Note at the site which images this run uses, for a patient who asks. A run doesn't fail for want of it."""
        settings = settings.for_sites()
        store = open_site(config, load_vocabulary(settings.vocabulary), settings.image_size)
        try:
            record_use(
                store,
                job=str(fl_ctx.get_job_id()),
                name=settings.name,
                settings=settings.model_dump(mode="json"),
            )
        except OSError:
            self.log_warning(fl_ctx, "the store's site_private cannot be written, so that this run isn't noted there")

    @staticmethod
    def _keep_error(task_name: str, error: Exception, fl_ctx: FLContext) -> None:
        folder = Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id()))
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "site": fl_ctx.get_identity_name(),
            "task": task_name,
            "kind": getattr(error, "kind", type(error).__name__),
            "message": str(error),
        }
        (folder / keys.CLIENT_ERROR).write_text(json.dumps(content), encoding="utf-8")


def _as_model(answer: Answer) -> FLModel:
    if answer.params is not None:
        return FLModel(params_type=ParamsType.FULL, params=answer.params, meta=answer.meta)
    # FLARE wants some metric in an answer without parameters; what counts stands in the meta.
    return FLModel(metrics={"answered": 1.0}, meta=answer.meta)
