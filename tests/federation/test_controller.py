"""Whose scores choose the round. FLARE's transport is replaced by a list of answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel

from nc_medfl import __version__
from nc_medfl.config import JobSettings, parse
from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import NCAwareAggregator
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.federation.controller import FederationController
from nc_medfl.federation.roundlog import RoundLog
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import build_network, fingerprints

SETTINGS = parse(JobSettings, {"method": "fedavg", "network": {"backbone": "small"}}, where="test")


class Federation(FederationController):
    """The server's workflow with answers from a list instead of from FLARE."""

    def __init__(self, answers: list[FLModel]) -> None:
        arguments = to_arguments(SETTINGS)
        aggregator = NCAwareAggregator(arguments)
        aggregator.warning = lambda _text: None  # outside FLARE there is no context to log with
        super().__init__(settings=arguments, num_clients=2, num_rounds=1, persistor_id="", aggregator=aggregator)
        self.fl_ctx = FLContext()
        self.current_round = 0
        self.answers = answers
        self.accepted: list[bool] = []

    def event(self, _event_type: str) -> None:
        return

    def _send(self, _task: str, _model: FLModel, callback: Callable[[FLModel], bool]) -> list[str]:
        self.accepted = [callback(answer) for answer in self.answers]
        return []


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
    federation = Federation(list(answers))
    kept = federation._train_once(FLModel(params=dict(build_network(SETTINGS).state_dict())))
    return federation._log_round(RoundLog(tmp_path), 0, kept), federation.accepted


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
