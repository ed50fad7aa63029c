"""What a site does to its numbers before they leave."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nc_medfl.config import JobSettings, PrivacySettings, SiteConfig
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError
from nc_medfl.federation.accounting import STATISTICS, Ledger, Release, gaussian_epsilon
from nc_medfl.federation.checks import checked_statistics
from nc_medfl.federation.class_statistics import SiteStatistics
from nc_medfl.federation.policy import BUDGET, Refusal
from nc_medfl.federation.privacy import (
    Guard,
    clipped_update,
    first_images,
    noised_statistics,
    noised_update,
    privacy_rows,
    statistics_sensitivity,
)
from nc_medfl.federation.tasks import Task, do_task
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.metrics.collapse import class_statistics
from nc_medfl.settings import parse
from tests_support import tiny_site

PLAIN = parse(JobSettings, {"network": {"backbone": "small"}}, where="test").for_sites()
PRIVATE = parse(
    JobSettings,
    {"network": {"backbone": "small", "norm": "group"}, "loss": {"lambda_rejection": 0}, "training": {"lr": 1e-3}},
    where="test",
).for_sites()


def privacy(**values: Any) -> PrivacySettings:
    return parse(PrivacySettings, values, where="test")


def a_worker(store: Store, settings: JobSettings, run: str = "run", **values: Any) -> SiteWorker:
    config = SiteConfig(name="a", store=store.folder, device="cpu", privacy=privacy(**values))
    return SiteWorker(settings, config, run_id=run)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return tiny_site(tmp_path, "a", images=80, seed=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"update_noise": 1.0}, "update_noise needs update_clip"),
        ({"dp_sgd": {"multiplier": 1.0}}, "class statistics need noise too"),
        ({"update_clip": 1.0, "update_noise": 1.0}, "class statistics need noise too"),
        ({"max_epsilon": 3.0}, "max_epsilon needs noise to count"),
    ],
)
def test_settings_that_protect_nothing_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        privacy(**values)


def test_encryption_is_refused_with_the_reason_by_the_jobs_settings() -> None:
    with pytest.raises(UserError, match=r"aggregation\.encryption: .*can neither refuse an update") as caught:
        parse(JobSettings, {"aggregation": {"encryption": "he"}}, where="job.yaml")
    assert "\n" not in str(caught.value)


def test_the_first_images_of_each_patient_are_kept_in_order() -> None:
    rows, patients = np.array([10, 11, 12, 13, 14, 15]), np.array([2, 0, 2, 2, 0, 1])
    assert first_images(rows, patients, 1).tolist() == [10, 11, 15]
    assert first_images(rows, patients, 2).tolist() == [10, 11, 12, 14, 15]
    assert first_images(rows, patients, 9).tolist() == rows.tolist()


@given(
    labels=arrays(np.float32, (6, 5), elements=st.sampled_from([0.0, 1.0, np.nan])),
    features=arrays(np.float32, (6, 5, 4), elements=st.floats(-2, 2, width=32)),
    images=st.integers(1, 3),
)
def test_leaving_out_a_patient_changes_statistics_by_no_more_than_the_stated_sensitivity(
    labels: np.ndarray, features: np.ndarray, images: int
) -> None:
    everybody = class_statistics(torch.from_numpy(features), torch.from_numpy(labels))
    others = class_statistics(torch.from_numpy(features[images:]), torch.from_numpy(labels[images:]))
    known = [np.stack([(part == 1).sum(axis=0), (part == 0).sum(axis=0)]) for part in (labels, labels[images:])]
    moved = math.hypot(np.linalg.norm(known[0] - known[1]), float((everybody.sums - others.sums).norm()))
    assert moved <= statistics_sensitivity(5, images, feature_sums=True) + 1e-9


def test_the_noise_has_the_deviation_that_was_booked(store: Store) -> None:
    settings = privacy(statistics_noise={"multiplier": 2.0, "images_per_patient": 3})
    exact = SiteStatistics(np.full((2, 8), 5_000.0), np.zeros((2, 8, 2_000)))
    guard = Guard(settings, store.folder, "run", np.random.default_rng(0))
    noised = guard.statistics(exact, 1_000_000)
    assert noised.feature_sums is not None
    # 3 images of 8 findings, counts and sums: 3 * sqrt(16) = 12, twice that as deviation.
    assert noised.feature_sums.std() == pytest.approx(24.0, rel=0.02)
    assert (noised.counts != exact.counts).any()
    assert Ledger(store.folder).spent() == [("run", Release(STATISTICS, 2.0))]


@given(seed=st.integers(0, 200), n_images=st.integers(1, 60))
def test_noised_counts_pass_the_servers_checks(seed: int, n_images: int) -> None:
    rng = np.random.default_rng(seed)
    positives = rng.integers(0, n_images + 1, 6)
    exact = SiteStatistics(np.stack([positives, n_images - positives]).astype(float))
    noised = noised_statistics(exact, 20.0, n_images, rng)
    assert (noised.counts >= 0).all()
    assert (noised.counts == np.floor(noised.counts)).all()
    assert (noised.counts.sum(axis=0) <= n_images).all()
    checked_statistics({"nc_medfl.counts": noised.counts}, n_images, 6, None)


def test_a_class_is_withheld_by_its_noised_count_and_not_by_its_true_one(store: Store) -> None:
    settings = privacy(statistics_noise={"multiplier": 3.0}, min_positives=30)
    exact = SiteStatistics(np.full((2, 100), 30.0))
    noised = Guard(settings, store.folder, "run", np.random.default_rng(1)).statistics(exact, 60)
    told = ~np.isnan(noised.counts[0])
    assert 10 < told.sum() < 90
    assert (noised.counts[0][told] >= 30).all()


def test_noise_differs_between_workers_of_one_seed(store: Store) -> None:
    sums = []
    for _ in range(2):
        worker = a_worker(store, PLAIN, statistics_noise={"multiplier": 1.0})
        sums.append(worker.validate(worker.network.state_dict()).statistics.feature_sums)
    assert sums[0] is not None
    assert sums[1] is not None
    assert np.abs(sums[0] - sums[1]).min() > 0


def test_no_class_statistics_leave_where_site_or_job_wants_none(store: Store) -> None:
    silent = parse(JobSettings, {"network": {"backbone": "small"}, "release": {"class_statistics": "none"}}, where="t")
    for worker in (a_worker(store, PLAIN, allow_class_statistics=False), a_worker(store, silent.for_sites())):
        task = Task("validate", worker.network.state_dict(), 0, "run")
        meta = do_task(worker, task).meta
        assert np.isnan(meta["nc_medfl.counts"]).all()
        assert "nc_medfl.feature_sums" not in meta


def test_metrics_of_rare_findings_stay_and_enter_no_mean(store: Store) -> None:
    plain, strict = a_worker(store, PLAIN), a_worker(store, PLAIN, min_test_positives=5)
    labels = store.labels()[store.positions("test")]
    rare = {n for n, count in zip(store.vocabulary.findings, (labels == 1).sum(axis=0), strict=True) if count < 5}
    assert rare
    assert len(rare) < len(store.vocabulary)
    params = plain.network.state_dict()
    open_rows = {(r["finding"], r["metric"]): r for r in plain.evaluate(params)}
    rows = {(r["finding"], r["metric"]): r for r in strict.evaluate(params)}
    for (finding, metric), row in rows.items():
        if finding in rare:
            assert row["value"] is None
            assert not row["n_positive"]
            assert not row["n_annotated"]
            assert "withheld by the site" in row["reason"]
        elif finding not in ("macro", "micro"):
            assert row["value"] == pytest.approx(open_rows[finding, metric]["value"], nan_ok=True)
    told = [r["value"] for (f, m), r in rows.items() if m == "auc" and f not in ("macro", "micro") and f not in rare]
    assert rows["macro", "auc"]["value"] == pytest.approx(np.mean(told))


def test_a_long_change_is_scaled_to_the_bound_and_a_short_one_left() -> None:
    received = {"w": torch.zeros(2), "n": torch.tensor(3)}
    trained = {"w": torch.tensor([3.0, 4.0]), "n": torch.tensor(9)}
    sent, norm = clipped_update(trained, received, 1.0)
    assert norm == pytest.approx(5.0)
    torch.testing.assert_close(sent["w"], torch.tensor([0.6, 0.8]))
    assert sent["n"] == 9
    same, _ = clipped_update(trained, received, 5.0)
    assert torch.equal(same["w"], trained["w"])


def test_noise_on_the_update_has_its_deviation_and_leaves_integers_and_variances_usable() -> None:
    params = {"w": torch.zeros(200_000), "bn.running_var": torch.full((50_000,), 0.1), "n": torch.tensor(9)}
    noised = noised_update(params, 0.5, np.random.default_rng(0))
    assert float(noised["w"].std()) == pytest.approx(0.5, rel=0.02)
    assert float(noised["bn.running_var"].min()) >= 0
    assert noised["n"] == 9


def test_what_training_changed_leaves_clipped(store: Store) -> None:
    worker = a_worker(store, PLAIN, update_clip=0.05)
    start = {name: value.clone() for name, value in worker.network.state_dict().items()}
    answer = do_task(worker, Task("train", start, 0, "run"))
    assert answer.params is not None
    floating = [name for name, value in start.items() if value.is_floating_point()]
    changes = [(answer.params[name].double() - start[name].double()).flatten() for name in floating]
    change = float(torch.cat(changes).norm())
    assert change == pytest.approx(0.05, rel=1e-3)
    assert answer.meta["nc_medfl.privacy"] == {"update_clip": 0.05}


def test_a_noised_update_costs_what_a_gaussian_of_twice_the_bound_does(store: Store) -> None:
    worker = a_worker(store, PLAIN, update_clip=0.1, update_noise=20.0, allow_class_statistics=False)
    start = {name: value.clone() for name, value in worker.network.state_dict().items()}
    answer = do_task(worker, Task("train", start, 0, "run"))
    told = answer.meta["nc_medfl.privacy"]
    # Two updates are at most 0.2 apart, the deviation is 2: ten times as much.
    assert told["epsilon"] == pytest.approx(gaussian_epsilon(1 / 10, 1e-5))
    assert told["model"] is True
    assert answer.meta["nc_medfl.losses"] == "{}"


def test_a_budget_counts_every_job_of_the_store_and_ends_what_would_pass_it(store: Store) -> None:
    one = gaussian_epsilon(1 / 4, 1e-5)
    two = gaussian_epsilon(math.sqrt(2) / 4, 1e-5)
    values = {"statistics_noise": {"multiplier": 4.0}, "max_epsilon": (one + two) / 2}
    first = a_worker(store, PLAIN, "run-a", **values)
    first.validate(first.network.state_dict())
    assert first.guard.report()["epsilon"] == pytest.approx(one)
    second = a_worker(store, PLAIN, "run-b", **values)
    with pytest.raises(Refusal, match=r"privacy\.max_epsilon") as caught:
        second.validate(second.network.state_dict())
    assert caught.value.category == BUDGET
    assert len(Ledger(store.folder).spent()) == 1
    assert second.guard.report()["epsilon"] == 0
    assert second.guard.report()["epsilon_all_jobs"] == pytest.approx(one)


def test_private_training_is_booked_by_patients_and_tells_no_loss(store: Store) -> None:
    worker = a_worker(store, PRIVATE, dp_sgd={"multiplier": 1.5}, statistics_noise={"multiplier": 4.0}, update_clip=1.0)
    start = {name: value.clone() for name, value in worker.network.state_dict().items()}
    answer = do_task(worker, Task("train", start, 0, "run"))
    booked = [release for _, release in Ledger(store.folder).spent()]
    # 48 training images of 24 patients, one step of (up to) 32 of them.
    assert [(r.mechanism, r.sample_rate, r.steps) for r in booked] == [("class_statistics", 1.0, 1), ("dp_sgd", 1.0, 1)]
    assert answer.meta["nc_medfl.losses"] == "{}"
    assert answer.meta["nc_medfl.n_samples"] == 48
    assert answer.meta["nc_medfl.privacy"]["model"] is True
    assert answer.params is not None
    assert any(not torch.equal(answer.params[name], start[name]) for name in start)


def test_what_a_site_tells_of_privacy_becomes_rows_and_nonsense_none() -> None:
    rows = privacy_rows("a", {"epsilon": 2.5, "epsilon_all_jobs": None, "model": True, "path": "/etc", "delta": "x"})
    assert {(r["quantity"], r["value"]) for r in rows} == {("epsilon", 2.5), ("epsilon_all_jobs", None), ("model", 1.0)}
    for nonsense in (None, "text", 7, [1], {"epsilon": float("nan")}, {"epsilon": {"a": 1}}):
        assert privacy_rows("a", nonsense) == []


@pytest.mark.parametrize("name", ["percentile_privacy.PercentilePrivacy", "exclude_vars.ExcludeVars"])
def test_what_flares_own_filters_make_of_an_update_is_refused(store: Store, name: str) -> None:
    from importlib import import_module

    from nvflare.apis.dxo import from_shareable
    from nvflare.apis.fl_context import FLContext
    from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
    from nvflare.app_common.utils.fl_model_utils import FLModelUtils

    from nc_medfl.federation.checks import checked_params
    from nc_medfl.federation.refusal import RefusedUpdate

    module, _, kind = name.partition(".")
    found = getattr(import_module(f"nvflare.app_common.filters.{module}"), kind)
    own = a_worker(store, PLAIN).network.state_dict()
    checked_params(own, own)
    message = FLModelUtils.to_shareable(FLModel(params_type=ParamsType.FULL, params=dict(own), meta={}))
    made = found("num_batches") if kind == "ExcludeVars" else found()
    filtered = from_shareable(made.process(message, FLContext()))
    with pytest.raises(RefusedUpdate, match=r"missing|num_batches_tracked"):
        checked_params(filtered.data, own)
