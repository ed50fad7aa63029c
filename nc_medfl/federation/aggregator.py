"""The server's aggregator: checks each update, refuses what doesn't fit, and averages the rest as it comes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from torch import Tensor

from nc_medfl import __version__
from nc_medfl.federation import answers, checks, keys, norms
from nc_medfl.federation.admission import Candidate, Judge, Verdict
from nc_medfl.federation.arguments import from_arguments
from nc_medfl.federation.class_statistics import Row, SiteStatistics, StatisticsSums, site_collapse_rows
from nc_medfl.federation.refusal import RefusedUpdate
from nc_medfl.federation.robust import combiner, robust_average
from nc_medfl.federation.spool import Spool
from nc_medfl.federation.streaming import RunningAverage
from nc_medfl.federation.wire import own_meta, payload_bytes
from nc_medfl.labels import load_vocabulary
from nc_medfl.networks import FedNCANet, class_parameters
from nc_medfl.training.model import build_network, fingerprints

__all__ = ["NCAwareAggregator", "RefusedUpdate"]

#: Stands among the names of a spooled update for the feature sums that came with it.
_SUMS = "\0feature_sums"


class NCAwareAggregator(ModelAggregator):  # type: ignore[misc]  # nvflare ships no types
    """Averages updates with a regard for classes, and follows the collapse of the federation.

    An update is checked, added to running sums and forgotten, so that memory does not grow with the number of sites.
    Where it must be judged beside the others (the first round), or the average is a median or a trimmed mean, it waits
    on the server's disk instead. What is refused, and why, stands in the log and in ``updates.csv``
    (docs/reference/updates.md). If all are refused the previous model stays.

    The shared frame is a buffer that does not travel, so it is never averaged.

    Args:
        settings: what :func:`nc_medfl.federation.arguments.to_arguments` makes of the job's settings.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self._job = from_arguments(settings)
        self._rules = self._job.aggregation
        network = build_network(self._job)
        self._vocabulary = load_vocabulary(self._job.vocabulary)
        self._expected = fingerprints(network, self._vocabulary)
        self._class_axes = class_parameters(network)
        self._trained = frozenset(name for name, _ in network.named_parameters())
        self._previous: dict[str, Tensor] = {k: v.clone() for k, v in network.state_dict().items()}
        # Where it is learned, collapse is followed beside the simplex that it starts from.
        self._frame = network.frame.detach() if isinstance(network, FedNCANet) else None
        self._judge = Judge(self._rules)
        # FLARE hands over answers from several threads.
        self._lock = threading.RLock()
        self._spool: Spool | None = None
        self._clear()

    def set_previous(self, params: Mapping[str, Any]) -> None:
        """Tell the aggregator the model that this round starts from."""
        self._previous = {name: torch.as_tensor(value) for name, value in params.items()}

    def accept_model(self, model: FLModel) -> None:
        """Check one site's update and add it to the average, or keep it until the round can be judged.

        Raises:
            RefusedUpdate: if it does not fit; the round goes on without it. One that is kept can still be refused
                by :meth:`settle`.
        """
        meta = model.meta or {}
        site = str(meta.get("client_name", "unknown"))
        entry: Row = {"site": site, "outcome": "accepted", "reason": "", "n_samples": None}
        with self._lock:
            self._log.append(entry)
            try:
                self._admit(site, model, meta, entry)
            except RefusedUpdate as reason:
                self._refuse(entry, str(reason))
                raise
            except (TypeError, ValueError, RuntimeError) as error:
                # What numpy and torch say of a value that no check foresaw; it may quote the value.
                unreadable = f"it can't be read as numbers ({type(error).__name__})"
                self._refuse(entry, unreadable)
                raise RefusedUpdate(unreadable) from error

    @property
    def log(self) -> list[Row]:
        """What became of each update of this round; reading it ends the wait of those that are kept."""
        self.settle()
        return self._log

    @property
    def accepted(self) -> list[str]:
        """Names of the sites whose updates are in the average."""
        return sorted(row["site"] for row in self.log if row["outcome"] == "accepted")

    def settle(self) -> None:
        """Judge the updates that wait, now that the round is whole."""
        with self._lock:
            waiting = sorted(self._waiting, key=lambda pair: pair[0].site)
            self._waiting.clear()
            self._judge.choose_preparation([candidate for candidate, _ in waiting])
            for candidate, entry in waiting:
                verdict = self._judge.verdict(candidate)
                if verdict.refused:
                    self._refuse(entry, verdict.refused)
                else:
                    self._take_kept(candidate, verdict, entry)

    def aggregate_model(self) -> FLModel:
        """The next global model, from the updates accepted since :meth:`reset_stats`."""
        with self._lock:
            self.settle()
            if not self._n_taken:
                self.warning("no update accepted in this round: the previous model stays")
            params = self._robust() if self._is_robust else self._average.result() if self._average else None
            self._close_spool()
            return FLModel(params_type=ParamsType.FULL, params=params or dict(self._previous), meta={})

    def reset_stats(self) -> None:
        """Forget the updates of the last round."""
        with self._lock:
            self._judge.begin_round()
            self._clear()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Leave nothing on disk when the job ends."""
        super().handle_event(event_type, fl_ctx)
        if event_type in (EventType.END_RUN, EventType.ABORT_TASK):
            self._close_spool()

    def statistics_rows(self, parts: list[SiteStatistics] | None = None) -> list[Row]:
        """Coverage and collapse of a model, from the sums of every site.

        Args:
            parts: the sites' sums; None takes those of the accepted updates, which describe the model
                that this round started from.
        """
        if parts is None:
            self.settle()
            sums = self._statistics
        else:
            sums = StatisticsSums(len(self._vocabulary))
            for part in parts:
                sums.add(part)
        findings = self._vocabulary.findings
        return [*sums.collapse_rows(self._frame, findings, self._rules.min_positives), *sums.coverage_rows(findings)]

    def site_collapse(self) -> list[Row]:
        """Rows of ``rounds.csv``: the collapse of the model that this round started from, at each accepted site."""
        self.settle()
        return sorted(self._site_collapse, key=lambda row: str(row["site"]))

    def collapse_of(self, site: str, statistics: SiteStatistics) -> list[Row]:
        """The collapse of a model at one site, from its sums; no rows where it sends none."""
        findings = self._vocabulary.findings
        return site_collapse_rows(site, statistics, self._frame, findings, self._rules.min_positives)

    def statistics_of(self, meta: Mapping[str, Any]) -> SiteStatistics:
        """Read and check a site's class statistics.

        Raises:
            RefusedUpdate: if they have a wrong shape or impossible values.
        """
        n_samples = self._judge.known_samples(str(meta.get("client_name", "")))
        return self._statistics_of(meta, n_samples)

    def check_fingerprints(self, meta: Mapping[str, Any]) -> None:
        """Check that a site speaks of the server's findings, frame and network, and works as the others do.

        Raises:
            RefusedUpdate: if it does not; then its scores don't count either.
        """
        given = checks.checked_fingerprints(meta, self._expected)
        version = given.get("package")
        if version != __version__ and not self._rules.allow_other_version:
            raise RefusedUpdate(
                f"nc_medfl {checks.shown(version)} there, {__version__} at the server. Install the same, or set "
                "aggregation.allow_other_version"
            )
        self._judge.check_preparation(_text(given.get("preparation")))

    def read_report(self, meta: Mapping[str, Any]) -> answers.SiteReport:
        """Losses and validation rows of a site that speaks of the server's model.

        Raises:
            RefusedUpdate: if its fingerprints differ, or any of it is malformed.
        """
        self.check_fingerprints(meta)
        return answers.read_report(meta, self._vocabulary.findings, self._rules.max_samples)

    def read_test(self, meta: Mapping[str, Any]) -> list[Row]:
        """Final metrics of a site.

        Raises:
            RefusedUpdate: if they are malformed, or of another site.
        """
        return answers.read_test(meta, self._vocabulary.findings, self._rules.max_samples)

    def _model_part(self, _site: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """What of an update is the model; a method that sends more takes its own part out here, and checks it."""
        return params

    def _drop_part(self, _site: str) -> None:
        """The update of a site was refused after all: forget what :meth:`_model_part` took out."""

    @property
    def _is_robust(self) -> bool:
        return self._rules.robust in ("median", "trimmed_mean")

    def _clear(self) -> None:
        self._close_spool()
        self._average: RunningAverage | None = None
        self._statistics = StatisticsSums(len(self._vocabulary))
        self._site_collapse: list[Row] = []
        self._waiting: list[tuple[Candidate, Row]] = []
        self._kept: list[tuple[Candidate, Verdict]] = []
        self._log: list[Row] = []
        self._n_taken = 0

    def _admit(self, site: str, model: FLModel, meta: Mapping[str, Any], entry: Row) -> None:
        params, statistics, candidate = self._checked(site, model, meta, entry)
        self._judge.note(candidate)
        if self._judge.needs_whole_round:
            self._waiting.append((self._keep(candidate, params, statistics), entry))
            return
        verdict = self._judge.verdict(candidate)
        if verdict.refused:
            raise RefusedUpdate(verdict.refused)
        self._take(candidate, params, statistics, verdict, entry)

    def _checked(
        self, site: str, model: FLModel, meta: Mapping[str, Any], entry: Row
    ) -> tuple[dict[str, Tensor], SiteStatistics, Candidate]:
        if sum(row["site"] == site for row in self._log) > 1:
            raise RefusedUpdate("it has answered this round already")
        self.check_fingerprints(meta)
        if model.params_type not in (None, ParamsType.FULL):
            raise RefusedUpdate("it sends differences and not parameters")
        n_samples = checks.checked_n_samples(meta.get(keys.N_SAMPLES), self._rules.max_samples)
        entry["n_samples"] = n_samples
        entry["bytes_up"] = self._bytes_of(model)
        entry["precision"] = checks.checked_precision(meta)
        if not isinstance(model.params, Mapping):
            raise RefusedUpdate("it holds no parameters")
        params = checks.checked_params(self._model_part(site, model.params), self._previous)
        statistics = self._statistics_of(meta, n_samples)
        answers.read_report(meta, self._vocabulary.findings, self._rules.max_samples)
        candidate = Candidate(
            site,
            n_samples,
            statistics.counts,
            _text(meta[keys.FINGERPRINTS].get("preparation")),
            norms.update_norms(self._previous, params, self._trained),
            exact=not checks.adds_noise(meta),
            has_sums=statistics.feature_sums is not None,
        )
        return params, statistics, candidate

    def _bytes_of(self, model: FLModel) -> int:
        # With another type on the way, the filter that widened the model has counted; else the key is a stranger's.
        counted = model.meta.get(keys.BYTES) if self._job.transfer != "float32" else None
        return counted if isinstance(counted, int) else payload_bytes(model.params, own_meta(model.meta))

    def _statistics_of(self, meta: Mapping[str, Any], n_samples: int) -> SiteStatistics:
        shape = None if self._frame is None else tuple(self._frame.shape)
        return checks.checked_statistics(meta, n_samples, len(self._vocabulary), shape)

    def _keep(self, candidate: Candidate, params: dict[str, Tensor], statistics: SiteStatistics) -> Candidate:
        """Put an update on disk; its feature sums too, which at 200 sites would fill memory."""
        sums = statistics.feature_sums
        try:
            spool = self._open_spool()
            extra = self._no_sums() if sums is None else torch.from_numpy(sums)
            file = spool.put({**params, _SUMS: extra})
        except OSError as error:
            raise RefusedUpdate(f"the server can't keep it on disk ({error.strerror})") from error
        return replace(candidate, file=file)

    def _take_kept(self, candidate: Candidate, verdict: Verdict, entry: Row) -> None:
        assert self._spool is not None
        assert candidate.file is not None
        sums = self._spool.read(candidate.file, _SUMS).numpy() if candidate.has_sums else None
        statistics = SiteStatistics(candidate.counts, sums)
        if self._is_robust:
            self._kept.append((candidate, verdict))
            self._note(statistics, verdict, entry)
            return
        self._take(candidate, self._spool.read_all(candidate.file), statistics, verdict, entry)
        candidate.file.unlink()

    def _take(
        self,
        candidate: Candidate,
        params: Mapping[str, Tensor],
        statistics: SiteStatistics,
        verdict: Verdict,
        entry: Row,
    ) -> None:
        """Add an update to the running sums."""
        if self._average is None:
            weighting = self._rules.weighting
            self._average = RunningAverage(self._previous, weighting=weighting, class_axes=self._class_axes)
        if verdict.shorten:
            own = {name: params[name] for name in self._previous}
            params = norms.clipped(self._previous, own, verdict.shorten, self._trained)
        self._average.add(params, n_samples=candidate.n_samples, positives=candidate.counts[0])
        self._note(statistics, verdict, entry)

    def _note(self, statistics: SiteStatistics, verdict: Verdict, entry: Row) -> None:
        self._statistics.add(statistics)
        self._site_collapse += self.collapse_of(str(entry["site"]), statistics)
        self._n_taken += 1
        entry["reason"] = verdict.remark

    def _refuse(self, entry: Row, reason: str) -> None:
        entry |= {"outcome": "refused", "reason": reason}
        if not any(row["site"] == entry["site"] and row["outcome"] == "accepted" for row in self._log):
            self._drop_part(entry["site"])
        self.warning(f"update of {entry['site']} refused: {reason}")

    def _robust(self) -> dict[str, Tensor] | None:
        if not self._kept:
            return None
        kept, previous = self._kept, self._previous

        def read(site: int, name: str, start: int, stop: int) -> Tensor:
            assert self._spool is not None
            candidate, verdict = kept[site]
            assert candidate.file is not None
            value = self._spool.read(candidate.file, name, start, stop)
            times = verdict.shorten.get(norms.kind_of(name, self._trained), 1.0)
            return norms.clip_part(value, previous[name].reshape(-1)[start:stop], times)

        axes = self._class_axes if self._rules.weighting == "class_aware" else {}
        return robust_average(
            previous,
            read,
            len(kept),
            combiner(self._rules.robust, self._rules.trim_fraction),
            class_axes=axes,
            positives=np.stack([candidate.counts[0] for candidate, _ in kept]),
        )

    def _open_spool(self) -> Spool:
        if self._spool is None:
            self._spool = Spool({**self._previous, _SUMS: self._no_sums()}, self._run_folder())
        return self._spool

    def _close_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _no_sums(self) -> Tensor:
        shape = (0,) if self._frame is None else (2, *self._frame.shape)
        return torch.full(shape, torch.nan, dtype=torch.float64)

    def _run_folder(self) -> Path | None:
        """The job's own folder on the server, where a disk is; outside FLARE the system's temporary folder."""
        engine = self.fl_ctx.get_engine() if self.fl_ctx is not None else None
        if engine is None:
            return None
        return Path(engine.get_workspace().get_run_dir(self.fl_ctx.get_job_id()))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
