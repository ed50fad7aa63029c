"""What the aggregator refuses, what it keeps, and what it says about the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nvflare.app_common.abstract.fl_model import FLModel

from nc_medfl.config import JobSettings, parse
from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import NCAwareAggregator, RefusedUpdate
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import build_network, fingerprints

SETTINGS = parse(
    JobSettings, {"network": {"backbone": "small"}, "aggregation": {"weighting": "class_aware"}}, where="t"
)
C = 14
FRAME_SHAPE = (C, 96)


def a_network(seed: int) -> torch.nn.Module:
    network = build_network(SETTINGS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def an_update(site: str, seed: int = 0, **changes: Any) -> FLModel:
    network = a_network(seed)
    dim = network.frame.shape[1]
    meta = {
        "client_name": site,
        keys.FINGERPRINTS: fingerprints(network, load_vocabulary("nih14")),
        keys.N_SAMPLES: 10,
        keys.COUNTS: np.tile([[5.0], [5.0]], (1, C)),
        keys.FEATURE_SUMS: np.random.default_rng(seed).normal(size=(2, C, dim)),
    }
    meta |= changes.pop("meta", {})
    params = dict(network.state_dict())
    params |= changes.pop("params", {})
    for name in changes.pop("without", []):
        params.pop(name)
    return FLModel(params=params, meta=meta)


@pytest.fixture
def aggregator(monkeypatch: pytest.MonkeyPatch) -> NCAwareAggregator:
    made = NCAwareAggregator(to_arguments(SETTINGS))
    # Outside FLARE there is no context to log with.
    monkeypatch.setattr(made, "warning", lambda _text: None)
    return made


def a_weight() -> str:
    return next(name for name, p in a_network(0).named_parameters() if p.ndim == 4)


def wrong_fingerprint(which: str) -> dict[str, Any]:
    prints = fingerprints(a_network(0), load_vocabulary("nih14"))
    return {"meta": {keys.FINGERPRINTS: {**prints, which: "0" * 64}}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (wrong_fingerprint("vocabulary"), "vocabulary fingerprint"),
        (wrong_fingerprint("frame"), "frame fingerprint"),
        (wrong_fingerprint("model"), "model fingerprint"),
        ({"meta": {keys.FINGERPRINTS: None}}, "no fingerprints"),
        ({"params": {a_weight(): torch.full(a_network(0).state_dict()[a_weight()].shape, torch.nan)}}, "NaN"),
        ({"params": {a_weight(): torch.full(a_network(0).state_dict()[a_weight()].shape, torch.inf)}}, "infinity"),
        ({"params": {a_weight(): torch.zeros(2, 2)}}, "has shape"),
        ({"params": {"classifier.bias": torch.zeros(C, dtype=torch.int64)}}, "is torch.int64"),
        ({"params": {"extra.weight": torch.zeros(1)}}, "1 unknown"),
        ({"without": ["classifier.bias"]}, "1 parameters missing"),
        ({"meta": {keys.N_SAMPLES: 0}}, "no image"),
        ({"meta": {keys.COUNTS: np.zeros((2, 3))}}, "class counts"),
        ({"meta": {keys.COUNTS: np.full((2, C), -1.0)}}, "class counts"),
        ({"meta": {keys.FEATURE_SUMS: np.full((2, C, 3), 1.0)}}, "feature sums"),
        ({"meta": {keys.FEATURE_SUMS: np.full((2, *FRAME_SHAPE), np.inf)}}, "feature sums have"),
        (
            {"meta": {keys.FEATURE_SUMS: np.where(np.arange(FRAME_SHAPE[1]), 1.0, np.full((2, *FRAME_SHAPE), np.nan))}},
            "whole",
        ),
        ({"params": {"classifier.bias": "text"}}, "can't be read as numbers"),
        ({"meta": {keys.N_SAMPLES: "many"}}, "can't be read as numbers"),
        ({"meta": {keys.COUNTS: [[1.0], [2.0, 3.0]]}}, "can't be read as numbers"),
    ],
)
def test_a_bad_update_is_refused_with_its_reason_and_the_others_count(
    aggregator: NCAwareAggregator, changes: dict[str, Any], reason: str
) -> None:
    good = an_update("a", seed=1)
    aggregator.accept_model(good)
    with pytest.raises(RefusedUpdate, match=reason):
        aggregator.accept_model(an_update("b", seed=2, **changes))
    out = aggregator.aggregate_model()
    for name, value in good.params.items():
        torch.testing.assert_close(out.params[name], value)
    assert [(row["site"], row["outcome"]) for row in aggregator.log] == [("a", "accepted"), ("b", "refused")]
    assert reason in aggregator.log[1]["reason"]


def test_all_refused_keeps_the_previous_model(aggregator: NCAwareAggregator) -> None:
    previous = dict(a_network(9).state_dict())
    aggregator.set_previous(previous)
    with pytest.raises(RefusedUpdate):
        aggregator.accept_model(an_update("a", **wrong_fingerprint("frame")))
    out = aggregator.aggregate_model()
    assert all(torch.equal(out.params[name], value) for name, value in previous.items())


def test_the_frame_does_not_travel_and_is_the_same_after_aggregation(aggregator: NCAwareAggregator) -> None:
    before = a_network(0).frame.clone()
    for site, seed in (("a", 1), ("b", 2)):
        aggregator.accept_model(an_update(site, seed))
    out = aggregator.aggregate_model()
    assert not any("frame" in name or "class_queries" in name for name in out.params)
    network = a_network(0)
    network.load_state_dict(out.params)
    assert torch.equal(network.frame, before)


def test_a_site_that_never_saw_a_class_has_no_say_in_its_bias(aggregator: NCAwareAggregator) -> None:
    counts = np.tile([[5.0], [5.0]], (1, C))
    counts[0, 3] = 0
    blind, seeing = an_update("a", 1, meta={keys.COUNTS: counts}), an_update("b", 2)
    aggregator.accept_model(blind)
    aggregator.accept_model(seeing)
    bias = aggregator.aggregate_model().params["classifier.bias"]
    assert bias[3] == seeing.params["classifier.bias"][3]
    torch.testing.assert_close(bias[2], (blind.params["classifier.bias"][2] + seeing.params["classifier.bias"][2]) / 2)


def test_a_sum_that_one_site_withholds_takes_its_count_out_of_the_collapse(aggregator: NCAwareAggregator) -> None:
    # Site b alone tells of positives of class 0: NCpn is then that of b's positives against both sites' negatives.
    full, part = an_update("a", 1), an_update("b", 2)
    sums_a, sums_b = full.meta[keys.FEATURE_SUMS] / 100, part.meta[keys.FEATURE_SUMS] / 100
    full.meta[keys.FEATURE_SUMS], part.meta[keys.FEATURE_SUMS] = sums_a.copy(), sums_b
    full.meta[keys.FEATURE_SUMS][0, 0] = np.nan
    aggregator.accept_model(full)
    aggregator.accept_model(part)
    positive, negative = sums_b[0, 0] / 5, (sums_a[1, 0] + sums_b[1, 0]) / 10
    spread = (1 - positive @ positive) + (1 - negative @ negative)
    expected = spread / ((positive - negative) @ (positive - negative))
    rows = {(r["finding"], r["metric"]): r["value"] for r in aggregator.statistics_rows()}
    assert rows[load_vocabulary("nih14").findings[0], "ncpn"] == pytest.approx(expected)
    assert rows[load_vocabulary("nih14").findings[0], "n_positive"] == 10


def test_coverage_counts_sites_and_positives_and_says_what_is_withheld(aggregator: NCAwareAggregator) -> None:
    counts = np.tile([[5.0], [5.0]], (1, C))
    counts[:, 1] = np.nan
    aggregator.accept_model(an_update("a", 1, meta={keys.COUNTS: counts}))
    aggregator.accept_model(an_update("b", 2))
    rows = {(r["finding"], r["metric"]): r for r in aggregator.statistics_rows()}
    findings = load_vocabulary("nih14").findings
    assert rows[findings[0], "n_sites"]["value"] == 2
    assert rows[findings[0], "n_positive"]["value"] == 10
    assert rows[findings[1], "n_sites"]["value"] == 1
    assert rows[findings[1], "n_sites"]["reason"] == "1 sites withhold their count"
    assert {m for f, m in rows if f == "all"} == {"nc1", "nc2_angle", "nc2_length", "nc3"}


def test_what_aggregate_returns_in_meta_can_be_read_with_weights_only(
    aggregator: NCAwareAggregator, tmp_path: Any
) -> None:
    aggregator.accept_model(an_update("a"))
    out = aggregator.aggregate_model()
    torch.save({"model": out.params, "meta": out.meta}, tmp_path / "m.pt")
    torch.load(tmp_path / "m.pt", weights_only=True)
