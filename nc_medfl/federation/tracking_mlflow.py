"""FLARE's MLflow receiver, fed by the server's own tables.

Where to, the server says: ``MLFLOW_TRACKING_URI`` in its environment, as for anything else that writes to MLflow. Else
a store of files in the run's results; newer releases of MLflow develop that store no further, and open it on request
alone (``MLFLOW_ALLOW_FILE_STORE=true``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nvflare.apis.analytix import TrackConst
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_opt.tracking.mlflow.mlflow_receiver import MLflowReceiver

from nc_medfl.federation import keys
from nc_medfl.federation.tracking import EVENT, FEDERATION
from nc_medfl.federation.tracking_receivers import whose


class MLflowServerReceiver(MLflowReceiver):  # type: ignore[misc]  # nvflare ships no types
    """A run of MLflow for each site and one for the federation, in an experiment named after the job.

    Args:
        experiment: its name.
    """

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment
        about = {
            TrackConst.EXPERIMENT_NAME: experiment,
            TrackConst.RUN_NAME: "nc_medfl",
            TrackConst.EXPERIMENT_TAGS: {},
            TrackConst.RUN_TAGS: {},
        }
        super().__init__(kw_args=about, events=[EVENT])
        self._setup: tuple[Any, ...] = ()

    def _get_tracking_uri(self, fl_ctx: FLContext) -> str:
        named = os.environ.get("MLFLOW_TRACKING_URI")
        if named:
            return named
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        run_dir = fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())
        return (Path(run_dir).resolve() / keys.RESULTS_FOLDER / keys.MLRUNS).as_uri()

    def _mlflow_setup(
        self, art_full_path: str, experiment_name: str, experiment_tags: Any, site_names: list[str], fl_ctx: FLContext
    ) -> None:
        self._setup = (art_full_path, experiment_name, experiment_tags)
        super()._mlflow_setup(art_full_path, experiment_name, experiment_tags, [FEDERATION, *site_names], fl_ctx)

    def _init_buffer(self, site_names: list[str]) -> None:
        super()._init_buffer([FEDERATION, *site_names])

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        """Keep a value for MLflow; a site that joined late gets its run with its first value."""
        if record_origin not in self.buffer:
            super()._mlflow_setup(*self._setup, [record_origin], fl_ctx)
            super()._init_buffer([record_origin])
        super().save(fl_ctx, shareable, record_origin)

    def _get_record_origin(self, _fl_ctx: FLContext, data: Shareable) -> str | None:
        return whose(data)
