"""The server's side of SCAFFOLD: its control variate, sent with the model and moved by the sites' answers.

The arithmetic is that of :mod:`nc_medfl.federation.controls`. A change that is lost, with an update that came late,
does no lasting harm: with option II the next round in which every site answers makes ``c`` the mean of that round's
``c_i``, whatever it was before.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from nvflare.app_common.abstract.fl_model import FLModel
from torch import Tensor

from nc_medfl.data.store import write_atomic
from nc_medfl.errors import RunFailed
from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import NCAwareAggregator, RefusedUpdate
from nc_medfl.federation.checks import is_finite
from nc_medfl.federation.controller import FederationController
from nc_medfl.federation.controls import bounded, first_controls, moved
from nc_medfl.federation.exchange import Take
from nc_medfl.federation.robust import combiner
from nc_medfl.training.methods import Tensors, join_extras, split_extras
from nc_medfl.training.model import build_network


class ScaffoldAggregator(NCAwareAggregator):
    """Averages models as any other method's, and keeps the server's control variate.

    Attributes:
        controls: the control variate by parameter, zeros at first.
        n_sites: of the federation; the controller tells it.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.controls = first_controls(build_network(self._job))
        self.n_sites = 1
        self._changes: dict[str, dict[str, Tensor]] = {}

    def aggregate_model(self) -> FLModel:
        """The next global model; moves the control variate too."""
        self.settle()
        n_sites = max(self.n_sites, len(self._changes))
        combine = combiner(self._rules.robust, self._rules.trim_fraction) if self._is_robust else None
        self.controls = moved(self.controls, self._bounded_changes(), n_sites, combine)
        return super().aggregate_model()

    def _bounded_changes(self) -> dict[str, Tensors]:
        """The sites' changes, none of them longer than the job's rules for updates allow."""
        if self._rules.robust == "norm_clip":
            return bounded(self._changes, 1.0)
        # Refused by its change of the model, a site's change of control is gone by now; one that goes far in the
        # control alone is cut, since the model it trained is as good as any.
        return (
            dict(self._changes)
            if self._rules.norm_policy == "off"
            else bounded(self._changes, self._rules.max_norm_ratio)
        )

    def reset_stats(self) -> None:
        """Forget the updates of the last round."""
        super().reset_stats()
        self._changes = {}

    def _model_part(self, site: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        model, changes = split_extras(params)
        self._changes[site] = self._checked_changes(changes)
        return model

    def _drop_part(self, site: str) -> None:
        self._changes.pop(site, None)

    def _checked_changes(self, changes: Mapping[str, Any]) -> dict[str, Tensor]:
        if set(changes) != set(self.controls):
            raise RefusedUpdate("its control variate is missing, or of other parameters")
        tensors = {name: torch.as_tensor(value) for name, value in changes.items()}
        for name, value in tensors.items():
            expected = self.controls[name]
            if (value.shape, value.dtype, value.layout) != (expected.shape, expected.dtype, expected.layout):
                raise RefusedUpdate(f"its control variate of {name} has another shape or kind")
            if not is_finite(value):
                raise RefusedUpdate(f"its control variate of {name} holds a NaN or an infinity")
        return tensors


class ScaffoldController(FederationController):
    """The workflow of any other method, with the control variate sent along and kept on disk."""

    def _begin(self, results: Path, model: FLModel) -> Any:
        run = super()._begin(results, model)
        if run.finished:
            self.aggregator.controls = _read(results / keys.CONTROLS)
        return run

    def _round(self, run: Any, model: FLModel) -> FLModel:
        model = super()._round(run, model)
        buffer = io.BytesIO()
        torch.save(self.aggregator.controls, buffer)
        write_atomic(run.log.folder / keys.CONTROLS, buffer.getbuffer())
        return model

    def _send(self, task: str, model: FLModel, targets: Collection[str], callback: Take) -> None:
        if task == keys.TASK_TRAIN:
            self.aggregator.n_sites = len(self.engine.get_clients())
            model = copy.copy(model)
            model.params = join_extras(model.params, self.aggregator.controls)
        super()._send(task, model, targets, callback)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        controls: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not one of its own
        raise RunFailed("the saved control variate of SCAFFOLD can't be read. Start the job afresh.") from error
    return controls
