"""Which image goes where: patients whole, splits kept, classes missing, skew as asked for."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_support import FINDINGS, labelled, make_pool

from nc_medfl.errors import UserError
from nc_medfl.labels import load_vocabulary
from nc_medfl.partition import PartitionSettings, plan_partition
from nc_medfl.partition.dealing import deal_patients
from nc_medfl.partition.describe import describe_manifests


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sites=st.integers(2, 4),
    alpha=st.sampled_from([0.3, 1.0, 50.0]),
    missing=st.integers(0, 3),
    unknown=st.sampled_from([0.0, 0.3]),
)
def test_patients_stay_whole_and_images_are_lost_only_where_reported(
    seed: int,
    sites: int,
    alpha: float,
    missing: int,
    unknown: float,
) -> None:
    frame = make_pool(seed=seed, unknown=unknown)
    plan = plan_partition(frame, FINDINGS, PartitionSettings(sites, alpha, missing, seed, min_images=2))
    assert len(plan.site) == len(frame)
    assert plan.dropped == (plan.site < 0).sum()
    assert missing or plan.dropped == 0
    kept = frame.assign(number=plan.site).query("number >= 0")
    assert (kept.groupby("patient_key")["number"].nunique() == 1).all()
    for number in range(sites):
        part = kept[kept["number"] == number]
        held = (part[[f"label:{name}" for name in FINDINGS]] == 1).any().to_numpy()
        assert not held[~plan.held[:, number]].any()
        assert (~plan.held[:, number]).sum() == missing
        assert {"train", "val", "test"} == set(part["split"])
        assert (part["split"] == "train").sum() >= 2
    assert plan.held.any(axis=1).all()


def test_single_findings_are_dealt_to_within_one_image_of_the_shares() -> None:
    # One image a patient and one class an image: always serving the furthest below its target can't miss by
    # more than one image.
    rng = np.random.default_rng(1)
    classes = np.eye(3, dtype=bool)[rng.integers(0, 3, 400)]
    shares = np.array([[0.5, 0.3, 0.2], [0.05, 0.05, 0.9], [0.0, 0.35, 0.65]])
    site = deal_patients(classes, rng.permutation(400), shares, shares > 0, rng)
    got = np.array([[(site[classes[:, c]] == s).sum() for s in range(3)] for c in range(3)])
    wanted = shares * classes.sum(axis=0)[:, None]
    assert (np.abs(got - wanted) <= 1).all()


def test_a_patient_that_fits_nowhere_goes_where_most_of_it_is_kept() -> None:
    # Class 0 only at site 0, class 1 only at site 1. The patient has two images of class 0 and one of both:
    # site 0 keeps two, site 1 none.
    classes = np.array([[True, False], [True, False], [True, True]])
    held = np.array([[True, False], [False, True]])
    site = deal_patients(classes, np.zeros(3, dtype=np.int64), held.astype(float), held, np.random.default_rng(0))
    assert site.tolist() == [0, 0, -1]


def test_a_large_alpha_gives_all_sites_nearly_the_same_prevalence() -> None:
    frame = make_pool(1500)
    plan = plan_partition(frame, FINDINGS, PartitionSettings(3, 1e5))
    columns = [f"label:{name}" for name in FINDINGS]
    pooled = frame[columns].mean()
    for number in range(3):
        part = frame[plan.site == number]
        assert abs(len(part) / len(frame) - 1 / 3) < 0.02
        assert (part[columns].mean() - pooled).abs().max() < 0.015
        for split in ("train", "val", "test"):
            share = (part["split"] == split).mean()
            assert abs(share - (frame["split"] == split).mean()) < 0.02


def test_distance_rises_as_alpha_falls() -> None:
    frame = make_pool(1000, prevalence=0.1)
    means = []
    for alpha in (100.0, 1.0, 0.1):
        distances = []
        for seed in range(3):
            plan = plan_partition(frame, FINDINGS, PartitionSettings(3, alpha, seed=seed))
            parts = {str(s): frame[plan.site == s] for s in range(3)}
            distances.append(describe_manifests(parts, FINDINGS).sites["total_variation"].mean())
        means.append(np.mean(distances))
    assert means[0] < 0.1 < means[1] < means[2]
    assert means[2] > 3 * means[0]


def test_quantity_alpha_makes_sites_of_unequal_size_with_the_same_mix() -> None:
    frame = make_pool(1500)
    spreads = {}
    for quantity_alpha in (None, 0.7):
        plan = plan_partition(frame, FINDINGS, PartitionSettings(4, 1e5, seed=3, quantity_alpha=quantity_alpha))
        sizes = np.bincount(plan.site)
        spreads[quantity_alpha] = sizes.max() / sizes.min()
        largest = frame[plan.site == sizes.argmax()]
        assert abs((largest["label:Edema"] == 1).mean() - (frame["label:Edema"] == 1).mean()) < 0.02
    assert spreads[None] < 1.1
    assert spreads[0.7] > 2


def test_an_unknown_label_is_not_a_positive() -> None:
    # Mass is positive for nobody and unknown for half: one of two findings can be taken from a site, and each must
    # be held somewhere: of a single finding none can be missing at both sites.
    labels = np.zeros((60, 2), dtype=np.float32)
    labels[::2, 0] = 1
    labels[1::2, 1] = np.nan
    frame = labelled(np.arange(60), np.tile(["train", "val", "test"], 20), labels, ("Edema", "Mass"))
    with pytest.raises(UserError, match=r"at most 0 \(1 of 2 findings have a positive"):
        plan_partition(frame, ("Edema", "Mass"), PartitionSettings(2, 1.0, 1, min_images=2))
    plan = plan_partition(frame, ("Edema", "Mass"), PartitionSettings(2, 1.0, min_images=2))
    assert plan.held.all()
    assert plan.dropped == 0


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    frame = make_pool()
    first, again, other = (
        plan_partition(frame, FINDINGS, PartitionSettings(3, 0.5, 1, seed)).site for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sites": 1}, "--sites 1: a federation needs two"),
        ({"alpha": 0.0}, "--alpha 0: give a number above 0"),
        ({"alpha": -1.0}, "--alpha -1"),
        ({"alpha": float("nan")}, "--alpha nan"),
        ({"quantity_alpha": 0.0}, "--quantity-alpha 0"),
        ({"missing_classes": -1}, "--missing-classes -1"),
        ({"seed": -1}, "--seed -1"),
        ({"min_images": 0}, "--min-images 0"),
    ],
)
def test_a_setting_out_of_range_is_told(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        PartitionSettings(**({"sites": 3, "alpha": 1.0} | values))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"missing_classes": 6}, "--missing-classes 6: with 3 sites at most 4"),
        ({"sites": 41}, "--sites 41: the pool has 40 patients in its (val|test) split"),
        ({"min_images": 200}, "too few for --min-images 200"),
        ({"sites": 12, "alpha": 0.01}, "no partition in 100 draws.*Raise --alpha"),
    ],
)
def test_a_pool_too_small_for_the_settings_is_told(values: dict[str, float], message: str) -> None:
    chosen = PartitionSettings(**({"sites": 3, "alpha": 1.0} | values))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        plan_partition(make_pool(), FINDINGS, chosen)


def test_a_damaged_manifest_is_told() -> None:
    chosen = PartitionSettings(2, 1.0)
    torn = make_pool(images=2)
    torn["split"] = np.resize(["train", "val"], len(torn))
    with pytest.raises(UserError, match="patients stand in more than one split"):
        plan_partition(torn, FINDINGS, chosen)
    frame = make_pool()
    with pytest.raises(UserError, match="1 images in no split"):
        plan_partition(frame.assign(split=[None, *frame["split"][1:]]), FINDINGS, chosen)
    with pytest.raises(UserError, match="1 images without patient_key"):
        plan_partition(frame.assign(patient_key=[None, *frame["patient_key"][1:]]), FINDINGS, chosen)


def test_the_whole_nih_table_is_dealt_out_in_seconds(shared_data: Path) -> None:
    table = pd.read_csv(next((shared_data / "nih_labels").glob("*.csv.gz")))
    findings = load_vocabulary("nih14").findings
    positive = table["Finding Labels"].str.replace(" ", "_").str.get_dummies("|")
    names = [name.replace(" ", "_") for name in findings]
    owner = table["Patient ID"].to_numpy()
    split = np.asarray(["train"] * 7 + ["val"] + ["test"] * 2)[owner % 10]
    frame = labelled(owner, split, positive[names].to_numpy(dtype=np.float32), findings)
    start = time.perf_counter()
    plan = plan_partition(frame, findings, PartitionSettings(10, 0.1, 5))
    assert time.perf_counter() - start < 10
    assert len(plan.site) == 112_120
    assert ((~plan.held).sum(axis=0) == 5).all()
    assert 0 < plan.dropped < 0.15 * len(plan.site)
