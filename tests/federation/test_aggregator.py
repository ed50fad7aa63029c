"""What the aggregator refuses, what it keeps, and what it says about the classes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from nvflare.app_common.abstract.fl_model import ParamsType
from updates_support import PREPARATION, Aggregator, C, a_network, a_step, an_update, distance, start

from nc_medfl import __version__
from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import RefusedUpdate
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import fingerprints

FRAME_SHAPE = (C, 96)
VOTE = {"split": "val", "finding": "macro", "metric": "auc", "value": 0.5}


@pytest.fixture
def aggregator() -> Aggregator:
    return Aggregator()


def a_weight() -> str:
    return next(name for name, p in a_network(0).named_parameters() if p.ndim == 4)


def prints(**changes: Any) -> dict[str, Any]:
    given = fingerprints(a_network(0), load_vocabulary("nih14"))
    return {"meta": {keys.FINGERPRINTS: {**given, "preparation": PREPARATION, "package": __version__, **changes}}}


def filled(value: float) -> dict[str, Any]:
    return {"params": {a_weight(): torch.full(a_network(0).state_dict()[a_weight()].shape, value)}}


def bias(value: Any) -> dict[str, Any]:
    return {"params": {"classifier.bias": value}}


def counts(positive: float, negative: float = 5.0) -> dict[str, Any]:
    given = np.tile([[5.0], [5.0]], (1, C))
    given[:, 3] = positive, negative
    return {"meta": {keys.COUNTS: given}}


def rows(content: Any) -> dict[str, Any]:
    return {"meta": {keys.ROWS: content if isinstance(content, str) else json.dumps(content)}}


BAD = [
    (prints(vocabulary="0" * 64), "vocabulary fingerprint"),
    (prints(frame="0" * 64), "frame fingerprint"),
    (prints(model="0" * 64), "model fingerprint"),
    (prints(package="0.0.9"), "nc_medfl 0.0.9 there"),
    (prints(package=None), "nc_medfl none there"),
    (prints(preparation=None), "no preparation fingerprint"),
    ({"meta": {keys.FINGERPRINTS: None}}, "no fingerprints"),
    ({"meta": {keys.FINGERPRINTS: "text"}}, "no fingerprints"),
    ({"params_type": ParamsType.DIFF}, "differences"),
    (filled(torch.nan), "NaN"),
    (filled(torch.inf), "infinity"),
    ({"params": {a_weight(): torch.zeros(2, 2)}}, "has shape"),
    (bias(torch.zeros(C, dtype=torch.int64)), "is torch.int64"),
    (bias(torch.zeros(C, dtype=torch.float64)), "is torch.float64"),
    (bias(torch.zeros(C, dtype=torch.float16)), "is torch.float16"),
    (bias(torch.zeros(C, dtype=torch.complex64)), "is torch.complex64"),
    (bias(torch.zeros(C).to_sparse()), "not a plain dense array"),
    (bias(torch.zeros(C, device="meta")), "not a plain dense array"),
    (bias(np.array(["1"] * C)), "not an array of numbers"),
    (bias(np.array([object()] * C)), "not an array of numbers"),
    (bias("text"), "not an array of numbers"),
    (bias([0.0] * C), "not an array of numbers"),
    (bias(None), "not an array of numbers"),
    ({"params": {"extra.weight": torch.zeros(1)}}, "1 unknown"),
    ({"params": {7: torch.zeros(1)}}, "1 unknown"),
    ({"without": ["classifier.bias"]}, "1 parameters missing"),
    ({"meta": {keys.N_SAMPLES: 0}}, "no image"),
    ({"meta": {keys.N_SAMPLES: -5}}, "no image"),
    ({"meta": {keys.N_SAMPLES: 1_000_000}}, "max_samples"),
    ({"meta": {keys.N_SAMPLES: 2**70}}, "max_samples"),
    ({"meta": {keys.N_SAMPLES: 10.5}}, "not a whole number"),
    ({"meta": {keys.N_SAMPLES: True}}, "not a whole number"),
    ({"meta": {keys.N_SAMPLES: "many"}}, "not a whole number"),
    ({"meta": {keys.N_SAMPLES: None}}, "not a whole number"),
    ({"meta": {keys.COUNTS: None}}, "class counts are not"),
    ({"meta": {keys.COUNTS: np.zeros((2, 3))}}, "class counts are not"),
    ({"meta": {keys.COUNTS: [[1.0], [2.0, 3.0]]}}, "class counts are not"),
    ({"meta": {keys.COUNTS: np.full((2, C), "5")}}, "class counts are not"),
    ({"meta": {keys.COUNTS: np.full((2, C), np.inf)}}, "class counts are not"),
    (counts(-1.0), "negative"),
    (counts(2.5), "not whole numbers"),
    (counts(11.0, 0.0), "more than its training images"),
    (counts(6.0, 5.0), "more than its training images"),
    (counts(np.nan, 5.0), "by halves"),
    ({"meta": {keys.FEATURE_SUMS: np.full((2, C, 3), 1.0)}}, "feature sums have"),
    ({"meta": {keys.FEATURE_SUMS: "sums"}}, "feature sums have"),
    ({"meta": {keys.FEATURE_SUMS: np.full((2, *FRAME_SHAPE), np.inf)}}, "feature sums have"),
    ({"meta": {keys.FEATURE_SUMS: np.eye(1, FRAME_SHAPE[1])[None] * np.full((2, C, 1), 5.1)}}, "longer"),
    (
        {"meta": {keys.FEATURE_SUMS: np.where(np.arange(FRAME_SHAPE[1]), 1.0, np.full((2, *FRAME_SHAPE), np.nan))}},
        "whole",
    ),
    ({"meta": {keys.LOSSES: "{"}}, "not valid JSON"),
    ({"meta": {keys.LOSSES: {"loss": 1.0}}}, "not text"),
    (rows("[" * 100_000), "not valid JSON"),
    (rows([VOTE, VOTE]), "twice"),
    (rows([{**VOTE, "value": 1.5}]), "outside"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD, ids=[f"{n}-{r[:24]}" for n, (_, r) in enumerate(BAD)])
def test_a_bad_update_is_refused_with_its_reason_and_the_others_count(
    aggregator: Aggregator, changes: dict[str, Any], reason: str
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


def test_all_refused_keeps_the_previous_model(aggregator: Aggregator) -> None:
    previous = dict(a_network(9).state_dict())
    aggregator.set_previous(previous)
    with pytest.raises(RefusedUpdate):
        aggregator.accept_model(an_update("a", **prints(frame="0" * 64)))
    out = aggregator.aggregate_model()
    assert all(torch.equal(out.params[name], value) for name, value in previous.items())


def test_the_frame_does_not_travel_and_is_the_same_after_aggregation(aggregator: Aggregator) -> None:
    before = a_network(0).frame.clone()
    for site, seed in (("a", 1), ("b", 2)):
        aggregator.accept_model(an_update(site, seed))
    out = aggregator.aggregate_model()
    assert not any("frame" in name or "class_queries" in name for name in out.params)
    network = a_network(0)
    network.load_state_dict(out.params)
    assert torch.equal(network.frame, before)


def test_a_site_that_never_saw_a_class_has_no_say_in_its_bias(aggregator: Aggregator) -> None:
    no_sums = {keys.FEATURE_SUMS: None}
    blind, seeing = an_update("a", 1, meta={**counts(0.0)["meta"], **no_sums}), an_update("b", 2)
    aggregator.accept_model(blind)
    aggregator.accept_model(seeing)
    got = aggregator.aggregate_model().params["classifier.bias"]
    assert got[3] == seeing.params["classifier.bias"][3]
    torch.testing.assert_close(got[2], (blind.params["classifier.bias"][2] + seeing.params["classifier.bias"][2]) / 2)


def test_a_sum_that_one_site_withholds_takes_its_count_out_of_the_collapse(aggregator: Aggregator) -> None:
    # Site b alone tells of positives of class 0: NCpn is then that of b's positives against both sites' negatives.
    full, part = an_update("a", 1), an_update("b", 2)
    sums_a, sums_b = full.meta[keys.FEATURE_SUMS].copy(), part.meta[keys.FEATURE_SUMS]
    full.meta[keys.FEATURE_SUMS][0, 0] = np.nan
    aggregator.accept_model(full)
    aggregator.accept_model(part)
    positive, negative = sums_b[0, 0] / 5, (sums_a[1, 0] + sums_b[1, 0]) / 10
    spread = (1 - positive @ positive) + (1 - negative @ negative)
    expected = spread / ((positive - negative) @ (positive - negative))
    told = {(r["finding"], r["metric"]): r["value"] for r in aggregator.statistics_rows()}
    assert told[load_vocabulary("nih14").findings[0], "ncpn"] == pytest.approx(expected)
    assert told[load_vocabulary("nih14").findings[0], "n_positive"] == 10


def test_coverage_counts_sites_and_positives_and_says_what_is_withheld(aggregator: Aggregator) -> None:
    withheld = np.tile([[5.0], [5.0]], (1, C))
    withheld[:, 1] = np.nan
    aggregator.accept_model(an_update("a", 1, meta={keys.COUNTS: withheld}))
    aggregator.accept_model(an_update("b", 2))
    told = {(r["finding"], r["metric"]): r for r in aggregator.statistics_rows()}
    findings = load_vocabulary("nih14").findings
    assert told[findings[0], "n_sites"]["value"] == 2
    assert told[findings[0], "n_positive"]["value"] == 10
    assert told[findings[1], "n_sites"]["value"] == 1
    assert told[findings[1], "n_sites"]["reason"] == "1 sites withhold their count"
    assert {m for f, m in told if f == "all"} == {"nc1", "nc2_angle", "nc2_length", "nc3"}


def test_what_aggregate_returns_in_meta_can_be_read_with_weights_only(aggregator: Aggregator, tmp_path: Any) -> None:
    aggregator.accept_model(an_update("a"))
    out = aggregator.aggregate_model()
    torch.save({"model": out.params, "meta": out.meta}, tmp_path / "m.pt")
    torch.load(tmp_path / "m.pt", weights_only=True)


def test_a_reason_carries_no_text_of_the_site(aggregator: Aggregator) -> None:
    # Names and values that a site makes up could carry a patient's name, or break a line of the log.
    for changes in (
        {"params": {"Miller, John\n2024": torch.zeros(1)}},
        {"meta": {keys.N_SAMPLES: "Miller, John"}},
        {"meta": {keys.ROWS: json.dumps([{**VOTE, "finding": "Miller, John"}])}},
        prints(package="1.0\nMiller, John"),
    ):
        aggregator.reset_stats()
        with pytest.raises(RefusedUpdate):
            aggregator.accept_model(an_update("a", **changes))
        assert not any("Miller, John" in str(value) or "\n" in str(value) for value in aggregator.log[0].values())
        assert not any("Miller, John" in text or "\n" in text for text in aggregator.warnings)


def test_a_second_answer_of_a_site_in_one_round_does_not_count(aggregator: Aggregator) -> None:
    aggregator.accept_model(an_update("a", 1))
    with pytest.raises(RefusedUpdate, match="already"):
        aggregator.accept_model(an_update("a", 2))
    torch.testing.assert_close(aggregator.aggregate_model().params, an_update("a", 1).params)


def test_memory_of_a_round_is_freed_and_nothing_stays_on_disk(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    aggregator = Aggregator()
    aggregator.accept_model(an_update("a"))
    assert len(list(tmp_path.rglob("*.bin"))) == 1  # the first round waits on disk
    aggregator.aggregate_model()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_the_update_and_not_the_job(aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nc_medfl.federation.spool.Spool.put", full)
    with pytest.raises(RefusedUpdate, match="No space left"):
        aggregator.accept_model(an_update("a"))
    assert aggregator.aggregate_model().params.keys() == start().keys()


def test_the_odd_preparation_is_refused_and_named_whoever_answers_first() -> None:
    other = "ff" * 32
    for order in (("a", "b", "c"), ("c", "b", "a")):
        aggregator = Aggregator()
        for site in order:
            aggregator.accept_model(an_update(site, **(prints(preparation=other) if site == "c" else {})))
        outcomes = aggregator.outcomes()
        assert [outcomes[site][0] for site in "abc"] == ["accepted", "accepted", "refused"]
        assert "ffffffffffff... there, a1a1a1a1a1a1..." in outcomes["c"][1]
        # From then on it is known, and refused at once; so are its scores.
        aggregator.reset_stats()
        with pytest.raises(RefusedUpdate, match="preparation"):
            aggregator.accept_model(an_update("c", **prints(preparation=other)))
        with pytest.raises(RefusedUpdate, match="preparation"):
            aggregator.read_report(an_update("c", **prints(preparation=other)).meta)


def test_another_preparation_or_version_is_taken_where_the_job_allows_it() -> None:
    aggregator = Aggregator(allow_other_preparation=True, allow_other_version=True)
    aggregator.accept_model(an_update("a"))
    aggregator.accept_model(an_update("b", **prints(preparation="ff" * 32, package="9.9.9")))
    assert aggregator.accepted == ["a", "b"]


def test_a_job_can_name_the_preparation() -> None:
    aggregator = Aggregator(preparation="ff" * 32)
    with pytest.raises(RefusedUpdate, match="preparation"):
        aggregator.accept_model(an_update("a"))
    aggregator.accept_model(an_update("b", **prints(preparation="ff" * 32)))
    assert aggregator.accepted == ["b"]


def test_counts_that_change_from_round_to_round_are_refused_unless_allowed() -> None:
    for allowed in (False, True):
        aggregator = Aggregator(allow_changing_counts=allowed)
        aggregator.accept_model(an_update("a"))
        aggregator.aggregate_model()
        aggregator.reset_stats()
        aggregator.accept_model(an_update("a", **counts(5.0, 4.0)))
        outcome, reason = aggregator.outcomes()["a"]
        assert (outcome, "changed" in reason) == (("accepted", False) if allowed else ("refused", True))


def test_a_site_that_says_it_adds_noise_may_send_odd_counts_but_gains_no_weight_by_it() -> None:
    aggregator = Aggregator()
    noise = {keys.PRIVACY: {"class_statistics": True}}
    aggregator.accept_model(an_update("a", 1, meta={**counts(4000.7, -3.2)["meta"], **noise}))
    aggregator.accept_model(an_update("b", 2))
    assert aggregator.accepted == ["a", "b"]
    # 4000.7 positives are cut to its 10 images: 10 beside 5 of the other site.
    one, other = (an_update(site, seed).params["classifier.bias"][3] for site, seed in (("a", 1), ("b", 2)))
    expected = (10 * one + 5 * other) / 15
    torch.testing.assert_close(aggregator.aggregate_model().params["classifier.bias"][3], expected)


def test_a_far_update_of_the_first_round_is_refused_whoever_answers_first() -> None:
    results = []
    for order in ((0, 1, 2, 3), (3, 2, 1, 0)):
        aggregator = Aggregator(max_norm_ratio=5.0)
        aggregator.set_previous(start())
        sites = [a_step("a", 1), a_step("b", 2), a_step("c", 3), a_step("d", 4, times=100)]
        for index in order:
            aggregator.accept_model(sites[index])
        outcomes = aggregator.outcomes()
        assert [outcomes[site][0] for site in "abcd"] == ["accepted"] * 3 + ["refused"]
        assert "max_norm_ratio (5)" in outcomes["d"][1]
        results.append(aggregator.aggregate_model().params)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_later_rounds_are_judged_on_arrival_by_the_rounds_before() -> None:
    aggregator = Aggregator(max_norm_ratio=5.0)
    for _ in range(2):
        aggregator.reset_stats()
        aggregator.set_previous(start())
        for site, seed in (("a", 1), ("b", 2), ("c", 3)):
            aggregator.accept_model(a_step(site, seed))
        aggregator.aggregate_model()
    aggregator.reset_stats()
    with pytest.raises(RefusedUpdate, match="as long as the median"):
        aggregator.accept_model(a_step("d", 4, times=-100))
    aggregator.accept_model(a_step("a", 5, times=4))
    assert aggregator.accepted == ["a"]


def test_two_sites_can_not_tell_which_of_them_is_far() -> None:
    aggregator = Aggregator(max_norm_ratio=5.0)
    aggregator.set_previous(start())
    aggregator.accept_model(a_step("a", 1))
    aggregator.accept_model(a_step("b", 2, times=100))
    assert aggregator.accepted == ["a", "b"]


def test_a_far_update_is_cut_to_the_allowed_length_where_the_job_says_clip() -> None:
    aggregator = Aggregator(max_norm_ratio=5.0, norm_policy="clip", weighting="uniform")
    aggregator.set_previous(start())
    for site, seed, times in (("a", 1, 1), ("b", 2, 1), ("c", 3, 1), ("d", 4, 1000)):
        aggregator.accept_model(a_step(site, seed, times=times))
    assert aggregator.outcomes()["d"][0] == "accepted"
    assert "cut to 1/2" in aggregator.outcomes()["d"][1]  # 1000 times as long, 5 allowed: 1/200
    # The others weigh 1/4 of a step each, it 1/4 of five steps: sqrt(3 + 25) / 4 of a step.
    step = distance(a_step("a", 1).params, start())
    moved = distance(aggregator.aggregate_model().params, start())
    assert moved == pytest.approx(np.sqrt(28) / 4 * step, rel=0.02)


def test_a_norm_policy_that_is_off_takes_any_finite_update() -> None:
    aggregator = Aggregator(norm_policy="off")
    aggregator.set_previous(start())
    for site, seed, times in (("a", 1, 1), ("b", 2, 1), ("c", 3, 1), ("d", 4, 1e6)):
        aggregator.accept_model(a_step(site, seed, times=times))
    assert aggregator.accepted == ["a", "b", "c", "d"]


@pytest.mark.parametrize("robust", ["median", "trimmed_mean", "norm_clip"])
@pytest.mark.parametrize("weighting", ["uniform", "class_aware"])
def test_one_poisoned_site_of_five_wrecks_the_mean_and_not_the_robust_averages(robust: str, weighting: str) -> None:
    honest = [a_step(f"s{n}", 10 + n) for n in range(4)]
    common = {name: value.clone() for name, value in a_step("x", 99, size=0.05).params.items()}
    for update in honest:  # where they agree to go, and a little of their own
        shift = {n: common[n] - v for n, v in start().items() if v.is_floating_point()}
        update.params = {n: v + shift[n] if n in shift else v for n, v in update.params.items()}
    poison = {
        # A variance under 0 is refused whatever the average.
        n: v - 10 * (honest[0].params[n] - v) if v.is_floating_point() and not n.endswith("running_var") else v
        for n, v in start().items()
    }

    def result(**rules: Any) -> dict[str, torch.Tensor]:
        aggregator = Aggregator(weighting=weighting, **rules)
        aggregator.set_previous(start())
        for update in (*honest, an_update("poison", params=poison)):
            aggregator.accept_model(update)
        assert len(aggregator.accepted) == 5
        params: dict[str, torch.Tensor] = aggregator.aggregate_model().params
        return params

    clean = Aggregator(weighting=weighting)
    clean.set_previous(start())
    for update in honest:
        clean.accept_model(update)
    target = clean.aggregate_model().params
    step = distance(target, start())
    assert distance(result(), target) > 2 * step  # (4 - 10) / 5 of a step: it even goes backwards
    robustly = result(robust=robust)
    assert distance(robustly, target) < 0.5 * step
    integers = [name for name, value in start().items() if not value.is_floating_point()]
    assert integers
    for name in integers:
        assert robustly[name].dtype == start()[name].dtype


def test_integer_buffers_of_a_robust_average_are_the_rounded_median() -> None:
    aggregator = Aggregator(robust="median")
    name = next(name for name, value in start().items() if not value.is_floating_point())
    for site, steps in (("a", 3), ("b", 4), ("c", 10**6)):
        aggregator.accept_model(an_update(site, params={name: torch.tensor(steps)}))
    assert aggregator.aggregate_model().params[name].item() == 4
