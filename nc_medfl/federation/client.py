"""The FLARE side of a site: takes a task, lets the worker do it, sends the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs

from nc_medfl.data.usage import record_use
from nc_medfl.federation import keys
from nc_medfl.federation.arguments import from_arguments
from nc_medfl.federation.class_statistics import SiteStatistics
from nc_medfl.federation.site import find_site_config
from nc_medfl.federation.worker import SiteWorker


class SiteExecutor(Executor):  # type: ignore[misc]  # nvflare ships no types
    """Runs a site's tasks in the FLARE client process.

    If a task fails, the reason stays in this site's workspace (``nc_medfl_error.json`` and the log); the
    server learns only that it failed, since a message could name a path.

    Args:
        settings: what :func:`nc_medfl.federation.arguments.to_arguments` makes of the job's settings.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self._worker: SiteWorker | None = None
        fobs.register(TensorDecomposer)  # before the first task, which holds tensors

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Do one task: ``train``, ``validate`` or ``evaluate``."""
        try:
            answer = self._answer(task_name, FLModelUtils.from_shareable(shareable), fl_ctx)
        except Exception as error:
            self._keep_error(task_name, error, fl_ctx)
            self.log_exception(fl_ctx, f"task {task_name} failed")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        if abort_signal.triggered:
            return make_reply(ReturnCode.TASK_ABORTED)
        if answer is None:
            return make_reply(ReturnCode.TASK_UNKNOWN)
        return FLModelUtils.to_shareable(answer)

    def _answer(self, task_name: str, model: FLModel, fl_ctx: FLContext) -> FLModel | None:
        worker = self._worker_for(fl_ctx)
        if task_name == keys.TASK_TRAIN:
            return self._train(worker, model)
        if task_name == keys.TASK_VALIDATE:
            check = worker.validate(model.params)
            meta = {keys.FINGERPRINTS: dict(worker.fingerprints), keys.ROWS: json.dumps(check.rows)}
            return _report({**meta, **_statistics_meta(check.statistics)})
        if task_name == keys.TASK_EVALUATE:
            return _report({keys.ROWS: json.dumps(worker.evaluate(model.params))})
        return None

    @staticmethod
    def _train(worker: SiteWorker, model: FLModel) -> FLModel:
        update = worker.train(model.params, round_number=int(model.current_round))
        meta: dict[str, Any] = {
            keys.FINGERPRINTS: dict(worker.fingerprints),
            keys.N_SAMPLES: update.n_samples,
            keys.LOSSES: json.dumps(update.losses),
            keys.ROWS: json.dumps(update.before.rows),
            **_statistics_meta(update.before.statistics),
        }
        return FLModel(params_type=ParamsType.FULL, params=update.params, meta=meta)

    def _worker_for(self, fl_ctx: FLContext) -> SiteWorker:
        if self._worker is None:
            workspace = Path(fl_ctx.get_engine().get_workspace().get_root_dir())
            self._worker = SiteWorker(
                from_arguments(self.settings), find_site_config(fl_ctx.get_identity_name(), workspace)
            )
            self._note_use(self._worker, fl_ctx)
        return self._worker

    def _note_use(self, worker: SiteWorker, fl_ctx: FLContext) -> None:
        """Note at the site which images this run uses, for a patient who asks. A run doesn't fail for want of it."""
        settings = worker.settings.for_sites()
        try:
            record_use(
                worker.store,
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
            "kind": type(error).__name__,
            "message": str(error),
        }
        (folder / keys.CLIENT_ERROR).write_text(json.dumps(content), encoding="utf-8")


def _statistics_meta(statistics: SiteStatistics) -> dict[str, Any]:
    meta: dict[str, Any] = {keys.COUNTS: statistics.counts}
    if statistics.feature_sums is not None:
        meta[keys.FEATURE_SUMS] = statistics.feature_sums
    return meta


def _report(meta: dict[str, Any]) -> FLModel:
    """An answer without parameters. FLARE wants some metric in it; what counts stands in the meta."""
    return FLModel(metrics={"answered": 1.0}, meta=meta)
