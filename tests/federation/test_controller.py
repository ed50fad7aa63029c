"""Whose scores choose the round. FLARE's transport is replaced by a list of answers."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel

from nc_medfl import __version__
from nc_medfl.config import FederationSettings, JobSettings
from nc_medfl.errors import RunFailed
from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import NCAwareAggregator
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.federation.choice import Score
from nc_medfl.federation.controller import FederationController, _Run
from nc_medfl.federation.roundlog import RoundLog
from nc_medfl.federation.server_step import ServerStep
from nc_medfl.federation.state import RoundStore
from nc_medfl.labels import load_vocabulary
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network, fingerprints, save_model

SETTINGS = parse(JobSettings, {"method": "fedavg", "network": {"backbone": "small"}}, where="test")


class Engine:
    """The sites that FLARE knows."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = names

    def get_clients(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self.names]


class Federation(FederationController):
    """The server's workflow with answers from a list instead of from FLARE."""

    def __init__(self, attempts: list[list[FLModel]], sites: Collection[str] = (), **waiting: Any) -> None:
        settings = SETTINGS.model_copy(update={"federation": FederationSettings(**waiting)})
        arguments = to_arguments(settings)
        aggregator = NCAwareAggregator(arguments)
        aggregator.warning = lambda _text: None  # outside FLARE there is no context to log with
        super().__init__(settings=arguments, num_clients=2, num_rounds=1, persistor_id="", aggregator=aggregator)
        self.fl_ctx = FLContext()
        self.abort_signal = Signal()
        self.engine = Engine(sites)
        self.current_round = 0
        self.attempts = attempts
        self.accepted: list[bool] = []
        self.asked: list[tuple[str, ...]] = []
        self.lost: set[str] = set()

    def event(self, _event_type: str) -> None:
        return

    def get_num_standing_tasks(self) -> int:
        return 0

    def get_client_disconnect_time(self, client_name: str) -> float | None:
        return 1.0 if client_name in self.lost else None

    def _send(self, _task: str, _model: FLModel, targets: Any, callback: Callable[[FLModel], bool]) -> None:
        self.asked.append(tuple(targets))
        assert self._exchange is not None
        self._exchange.taken.update(targets)
        self.accepted = [callback(answer) for answer in self.attempts[len(self.asked) - 1]]


def an_answer(site: str, auc: float | None, **changes: Any) -> FLModel:
    network = build_network(SETTINGS)
    row = {"split": "val", "finding": "macro", "metric": "auc", "value": auc}
    meta = {
        "client_name": site,
        keys.FINGERPRINTS: {
            **fingerprints(network, load_vocabulary("nih14")),
            "package": __version__,
            "preparation": "p" * 64,
        },
        keys.N_SAMPLES: 10,
        keys.COUNTS: [[5.0] * 14, [5.0] * 14],
        keys.LOSSES: json.dumps({"loss": 1.0}),
        keys.ROWS: json.dumps([row]),
    }
    params = dict(network.state_dict()) | changes.pop("params", {})
    return FLModel(params=params, meta=meta | changes.pop("meta", {}))


def score(tmp_path: Any, *answers: FLModel) -> tuple[float | None, list[bool]]:
    federation = Federation([list(answers)], sites=[answer.meta["client_name"] for answer in answers])
    kept, exchange = federation._train_once(a_model())
    return federation._log_round(RoundLog(tmp_path), 0, kept, exchange)[0].mean, federation.accepted


def a_model() -> FLModel:
    return FLModel(params=dict(build_network(SETTINGS).state_dict()))


def a_run(folder: Path, **waiting: Any) -> _Run:
    job = SETTINGS.model_copy(update={"federation": FederationSettings(**waiting)})
    store, server = RoundStore(folder / "state", job, "job"), ServerStep(job.aggregation, ())
    return _Run(job, {}, RoundLog(folder / "results"), store, "0" * 32, server)


def test_the_score_is_the_mean_over_sites_where_it_is_defined(tmp_path: Any) -> None:
    assert score(tmp_path, an_answer("a", 0.6), an_answer("b", 0.9), an_answer("c", None)) == (
        pytest.approx(0.75),
        [True, True, True],
    )
    assert score(tmp_path, an_answer("a", None))[0] is None
    assert score(tmp_path, an_answer("a", float("nan")))[0] is None


def test_a_site_whose_update_is_refused_has_still_scored_the_model_it_was_sent(tmp_path: Any) -> None:
    # Else the mean of one round would run over other sites than that of the next.
    broken = {"head.output.bias": torch.full((14,), torch.nan)}
    mean, accepted = score(tmp_path, an_answer("a", 0.6), an_answer("b", 0.9, params=broken))
    assert mean == pytest.approx(0.75)
    assert accepted == [True, False]


def test_a_site_with_another_model_has_no_say_in_the_choice(tmp_path: Any) -> None:
    other = {keys.FINGERPRINTS: {"vocabulary": "", "frame": "", "model": ""}}
    mean, accepted = score(tmp_path, an_answer("a", 0.6), an_answer("b", 0.9, meta=other))
    assert mean == pytest.approx(0.6)
    assert accepted == [True, False]


def updates(run: _Run) -> list[tuple[str, str]]:
    table = pd.read_csv(run.log.folder / keys.UPDATES_CSV)
    return list(zip(table["site"], table["outcome"], strict=True))


def test_a_late_site_costs_its_update_and_not_the_round(tmp_path: Path) -> None:
    run = a_run(tmp_path, min_sites=2)
    federation = Federation([[an_answer("a", 0.6), an_answer("c", 0.8)]], sites="cba", min_sites=2)
    kept, exchange = federation._train(run, a_model())
    score, event = federation._log_round(run.log, 0, kept, exchange)
    assert updates(run) == [("a", "accepted"), ("b", "late"), ("c", "accepted")]
    assert score.mean == pytest.approx(0.7)
    assert event["sites"] == {"a": "accepted", "b": "late", "c": "accepted"}
    assert event["loss"] == pytest.approx(1.0)


def test_a_site_that_flare_has_lost_is_missing_and_not_asked(tmp_path: Path) -> None:
    run = a_run(tmp_path, min_sites=1)
    federation = Federation([[an_answer("a", 0.6)]], sites="ab", min_sites=1)
    federation.lost = {"b"}
    kept, exchange = federation._train(run, a_model())
    federation._log_round(run.log, 0, kept, exchange)
    assert federation.asked == [("a",)]
    assert updates(run) == [("a", "accepted"), ("b", "missing")]


def test_a_round_with_too_few_updates_is_repeated(tmp_path: Path) -> None:
    run = a_run(tmp_path, min_sites=2, retries=1)
    attempts = [[an_answer("a", 0.6)], [an_answer("a", 0.6), an_answer("b", 0.8)]]
    federation = Federation(attempts, sites="ab", min_sites=2, retries=1)
    kept, exchange = federation._train(run, a_model())
    federation._log_round(run.log, 0, kept, exchange)
    assert updates(run) == [("a", "unused"), ("b", "late"), ("a", "accepted"), ("b", "accepted")]
    assert exchange.accepted == 2


def test_a_refused_update_does_not_count_towards_the_quorum(tmp_path: Path) -> None:
    broken = {"head.output.bias": torch.full((14,), torch.nan)}
    answers = [an_answer("a", 0.6), an_answer("b", 0.9, params=broken)]
    federation = Federation([answers], sites="ab", min_sites=2, retries=0)
    with pytest.raises(RunFailed, match=r"round 1: 1 usable updates in each of 1 attempts"):
        federation._train(a_run(tmp_path, min_sites=2, retries=0), a_model())


def test_without_a_quorum_every_site_is_needed_but_a_refused_update_is_an_answer(tmp_path: Path) -> None:
    broken = {"head.output.bias": torch.full((14,), torch.nan)}
    answers = [an_answer("a", 0.6), an_answer("b", 0.9, params=broken)]
    assert Federation([answers], sites="ab")._train(a_run(tmp_path), a_model())[1].accepted == 1
    with pytest.raises(RunFailed, match=r"every site is needed .*: b late"):
        Federation([answers[:1]], sites="ab", retries=0)._train(a_run(tmp_path, retries=0), a_model())


def test_rounds_are_compared_over_the_sites_that_scored_both() -> None:
    # b is the hard site: without it the second round looks better (0.8 against 0.7) though a alone got worse.
    first, without_b = Score({"a": 0.85, "b": 0.55}), Score({"a": 0.8})
    assert without_b.mean > first.mean  # type: ignore[operator]
    assert not without_b.beats(first)
    assert Score({"a": 0.86}).beats(first)
    assert not Score({"c": 0.99}).beats(first)


def a_test_result(site: str) -> FLModel:
    row = {"site": site, "split": "test", "group": "all", "finding": "macro", "metric": "auc", "value": 0.75}
    return FLModel(metrics={"answered": 1.0}, meta={"client_name": site, keys.ROWS: json.dumps([row])})


def choose(run: _Run, federation: Federation) -> None:
    """Let the model after the first round be written down and found the best."""
    save_model(run.log.folder / keys.LAST_MODEL, a_model().params, run.job, rounds=1, prints={})
    federation._keep_if_best(run, Score({"a": 0.7}), 1)


def test_a_site_without_a_final_test_has_rows_that_say_so(tmp_path: Path) -> None:
    run = a_run(tmp_path, min_sites=2, retries=1)
    federation = Federation([[], [a_test_result("a")]], sites="ab", min_sites=2, retries=1)
    choose(run, federation)
    federation._evaluate(run, a_model())
    rows = json.loads((run.log.folder / keys.SITE_METRICS).read_text())["rows"]
    assert (rows[0]["site"], rows[0]["value"]) == ("a", 0.75)
    assert {row["site"] for row in rows[1:]} == {"b"}
    assert [row["finding"] for row in rows[-2:]] == ["macro", "micro"]
    assert all(row["value"] is None and row["reason"].startswith("no final test: it took") for row in rows[1:])
    last = json.loads((run.log.folder / keys.PROGRESS).read_text().splitlines()[-1])
    assert last["sites"] == {"a": "answered", "b": "late"}


def test_of_a_site_whose_final_metrics_are_refused_nothing_else_is_used(tmp_path: Path) -> None:
    run = a_run(tmp_path, min_sites=1)
    liar = a_test_result("a")  # its rows speak for a
    liar.meta |= {"client_name": "b", keys.TABLES: "no tables", keys.HISTOGRAMS: "no histograms"}
    federation = Federation([[a_test_result("a"), liar]], sites="ab", min_sites=1)
    said: list[str] = []
    federation.warning = said.append
    choose(run, federation)
    federation._evaluate(run, a_model())
    rows = json.loads((run.log.folder / keys.SITE_METRICS).read_text())["rows"]
    assert [row["value"] for row in rows if row["site"] == "a"] == [0.75]
    told = [row for row in rows if row["site"] == "b"]
    assert told
    assert all(row["value"] is None and row["reason"].startswith("its metrics were refused") for row in told)
    # Nobody so much as looked at the rest.
    assert len(said) == 1
    assert said[0].startswith("final metrics of b refused")


def test_no_final_test_at_all_is_an_error_and_no_empty_table(tmp_path: Path) -> None:
    run = a_run(tmp_path, min_sites=1, retries=0)
    federation = Federation([[]], sites="ab", min_sites=1, retries=0)
    choose(run, federation)
    with pytest.raises(RunFailed, match="no site answered the final test"):
        federation._evaluate(run, a_model())
    assert not (run.log.folder / keys.SITE_METRICS).exists()


def test_a_round_is_on_disk_before_the_tables_of_the_next_one_grow(tmp_path: Path) -> None:
    run = a_run(tmp_path, min_sites=1)
    federation = Federation([[an_answer("a", 0.6)]], sites="a", min_sites=1)
    may_write, order = threading.Event(), list[str]()

    def slow() -> None:
        assert may_write.wait(60)
        federation._keep(run, a_model().params, 1, None)
        order.append("kept")

    run.background.begin(slow)
    threading.Timer(0.2, may_write.set).start()
    # The site has answered by now, and nothing of it is in the tables.
    federation._train(run, a_model())
    order.append("trained")
    assert order == ["kept", "trained"]
    saved = run.store.find()
    assert saved is not None
    assert saved.rounds == 1
    assert len(pd.read_csv(saved.folder / keys.UPDATES_CSV)) == 0


def test_a_round_that_can_not_be_kept_ends_the_job(tmp_path: Path) -> None:
    run = a_run(tmp_path, min_sites=1)
    federation = Federation([[an_answer("a", 0.6)]], sites="a", min_sites=1)
    shutil.rmtree(run.log.folder)
    run.background.begin(lambda: federation._keep(run, a_model().params, 1, None))
    with pytest.raises(OSError, match="No such file"):
        federation._train(run, a_model())
    assert run.store.find() is None


def test_the_best_model_is_that_of_its_round_and_stays_when_the_last_one_changes(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    federation = Federation([])
    for rounds, auc in ((1, 0.6), (2, 0.8), (3, 0.7)):
        model = {name: value + rounds for name, value in a_model().params.items()}
        federation._keep(run, model, rounds, run.best)
        federation._keep_if_best(run, Score({"a": auc}), rounds)
    best, last = (torch.load(run.log.folder / name, weights_only=True) for name in (keys.BEST_MODEL, keys.LAST_MODEL))
    assert (best["round"], last["round"]) == (2, 3)
    name = "head.output.bias"
    assert torch.equal(best["state_dict"][name], a_model().params[name] + 2)
    assert not [path for path in run.log.folder.iterdir() if path.name.endswith(".tmp")]
