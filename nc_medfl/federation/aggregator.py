"""The server's aggregator: checks each update, refuses what doesn't fit, and averages the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from torch import Tensor

from nc_medfl.federation import keys
from nc_medfl.federation.arguments import from_arguments
from nc_medfl.federation.averaging import SiteUpdate, average
from nc_medfl.federation.class_statistics import Row, SiteStatistics, collapse_rows, coverage_rows
from nc_medfl.labels import load_vocabulary
from nc_medfl.networks import FedNCANet, class_parameters
from nc_medfl.training.model import build_network, fingerprints


class RefusedUpdate(Exception):
    """An update that must not enter the average; the text says why, without a value of it."""


class NCAwareAggregator(ModelAggregator):  # type: ignore[misc]  # nvflare ships no types
    """Averages updates with a regard for classes, and follows the collapse of the federation.

    Refused, with a reason in the log and in ``updates.csv``: an update whose vocabulary, frame or model
    fingerprint differs from the server's, whose parameters are missing, of another shape or kind, or that
    holds a NaN or an infinity. If all are refused the previous model stays.

    The shared frame is a buffer that does not travel, so it is never averaged.

    Args:
        settings: what :func:`nc_medfl.federation.arguments.to_arguments` makes of the job's settings.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self._job = from_arguments(settings)
        network = build_network(self._job)
        self._vocabulary = load_vocabulary(self._job.vocabulary)
        self._expected = fingerprints(network, self._vocabulary)
        self._class_axes = class_parameters(network)
        self._previous: dict[str, Tensor] = {k: v.clone() for k, v in network.state_dict().items()}
        self._frame = network.frame if isinstance(network, FedNCANet) else None
        self._updates: dict[str, SiteUpdate] = {}
        self.log: list[Row] = []

    def set_previous(self, params: Mapping[str, Any]) -> None:
        """Tell the aggregator the model that this round starts from."""
        self._previous = {name: torch.as_tensor(value) for name, value in params.items()}

    def accept_model(self, model: FLModel) -> None:
        """Check one site's update and keep it for the average.

        Raises:
            RefusedUpdate: if it does not fit; the round goes on without it.
        """
        meta = model.meta or {}
        site = str(meta.get("client_name", "unknown"))
        entry = {"site": site, "outcome": "accepted", "reason": "", "n_samples": meta.get(keys.N_SAMPLES)}
        self.log.append(entry)
        try:
            try:
                self._updates[site] = self._checked(site, model.params or {}, meta)
            except (TypeError, ValueError, RuntimeError) as error:
                # What numpy and torch say of a value that is no number or array at all; it may quote the value.
                raise RefusedUpdate(f"it can't be read as numbers ({type(error).__name__})") from error
        except RefusedUpdate as reason:
            entry |= {"outcome": "refused", "reason": str(reason)}
            self.warning(f"update of {site} refused: {reason}")
            raise

    def aggregate_model(self) -> FLModel:
        """The next global model, from the updates accepted since :meth:`reset_stats`."""
        if not self._updates:
            self.warning("no update accepted in this round: the previous model stays")
        params = average(
            self._previous,
            list(self._updates.values()),
            weighting=self._job.aggregation.weighting,
            class_axes=self._class_axes,
        )
        return FLModel(params_type=ParamsType.FULL, params=params, meta={})

    def reset_stats(self) -> None:
        """Forget the updates of the last round."""
        self._updates = {}
        self.log = []

    def statistics_rows(self, parts: list[SiteStatistics] | None = None) -> list[Row]:
        """Coverage and collapse of a model, from the sums of every site.

        Args:
            parts: the sites' sums; None takes those of the accepted updates, which describe the model
                that this round started from.
        """
        if parts is None:
            parts = [self._updates[site].statistics for site in sorted(self._updates)]
        findings = self._vocabulary.findings
        minimum = self._job.aggregation.min_positives
        return [*collapse_rows(parts, self._frame, findings, minimum), *coverage_rows(parts, findings)]

    def statistics_of(self, meta: Mapping[str, Any]) -> SiteStatistics:
        """Read and check a site's class statistics.

        Raises:
            RefusedUpdate: if they have a wrong shape or impossible values.
        """
        counts = np.asarray(meta.get(keys.COUNTS), dtype=np.float64)
        if counts.shape != (2, len(self._vocabulary)) or np.isinf(counts).any() or (counts < 0).any():
            raise RefusedUpdate(f"class counts are not [2, {len(self._vocabulary)}] numbers of images")
        sums = meta.get(keys.FEATURE_SUMS)
        if sums is None:
            return SiteStatistics(counts)
        sums = np.asarray(sums, dtype=np.float64)
        if self._frame is None or sums.shape != (2, *self._frame.shape) or np.isinf(sums).any():
            raise RefusedUpdate("feature sums have a wrong shape or are not finite")
        unknown = np.isnan(sums)
        if (unknown.any(axis=-1) != unknown.all(axis=-1)).any():
            raise RefusedUpdate("feature sums are not finite; only whole sums can be withheld")
        return SiteStatistics(counts, sums)

    def check_fingerprints(self, meta: Mapping[str, Any]) -> None:
        """Check that a site speaks of the server's findings, frame and network.

        Raises:
            RefusedUpdate: if it does not; then its scores don't count either.
        """
        given = meta.get(keys.FINGERPRINTS)
        if not isinstance(given, Mapping):
            raise RefusedUpdate("it carries no fingerprints")
        for name, expected in self._expected.items():
            if given.get(name) != expected:
                raise RefusedUpdate(f"{name} fingerprint differs from the server's")

    def _checked(self, site: str, params: Mapping[str, Any], meta: Mapping[str, Any]) -> SiteUpdate:
        self.check_fingerprints(meta)
        n_samples = int(meta.get(keys.N_SAMPLES) or 0)
        if n_samples <= 0:
            raise RefusedUpdate("it was trained on no image")
        return SiteUpdate(site, self._checked_params(params), n_samples, self.statistics_of(meta))

    def _checked_params(self, params: Mapping[str, Any]) -> dict[str, Tensor]:
        absent = sorted(set(self._previous) - set(params))
        extra = sorted(set(params) - set(self._previous))
        if absent or extra:
            raise RefusedUpdate(f"{len(absent)} parameters missing, {len(extra)} unknown ({[*absent, *extra][0]} ...)")
        tensors = {}
        for name, expected in self._previous.items():
            value = torch.as_tensor(params[name])
            if value.shape != expected.shape:
                raise RefusedUpdate(f"{name} has shape {list(value.shape)}, not {list(expected.shape)}")
            if value.is_floating_point() != expected.is_floating_point():
                raise RefusedUpdate(f"{name} is {value.dtype}, not {expected.dtype}")
            if not bool(torch.isfinite(value).all()):
                raise RefusedUpdate(f"{name} holds a NaN or an infinity")
            tensors[name] = value
        return tensors
