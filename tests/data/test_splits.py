"""Splits: by patient, stratified, and a matter of the inputs alone."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_medfl.data.assemble import judge, manifest_parts
from nc_medfl.data.join import join_labels
from nc_medfl.data.radiograph import Facts, Identity
from nc_medfl.data.sources import SourceData, SourceFile
from nc_medfl.data.splits import assign_splits
from nc_medfl.data.worker import Record
from nc_medfl.labels import harmonise, infer_label_map, load_vocabulary
from nc_medfl.labels.preview import preview

SPLITS = ("train", "val", "test")


def random_site(seed: int, patients: int, findings: int = 6) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = [f"p{p}" for p in range(patients) for _ in range(rng.integers(1, 6))]
    labels = (rng.random((len(ids), findings)) < np.geomspace(0.3, 0.01, findings)).astype(np.float32)
    labels[rng.random(labels.shape) < 0.05] = np.nan
    return ids, labels


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), patients=st.integers(3, 60))
def test_no_patient_stands_in_two_splits_and_none_is_empty(seed, patients):
    ids, labels = random_site(seed, patients)
    splits = assign_splits(ids, labels, seed=seed)
    for patient in set(ids):
        assert len({s for s, i in zip(splits, ids, strict=True) if i == patient}) == 1
    assert set(splits) == set(SPLITS)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), patients=st.integers(1, 40))
def test_the_order_of_the_images_does_not_matter(seed, patients):
    ids, labels = random_site(seed, patients)
    order = np.random.default_rng(seed).permutation(len(ids))
    shuffled = assign_splits([ids[i] for i in order], labels[order], seed=3)
    np.testing.assert_array_equal(shuffled, assign_splits(ids, labels, seed=3)[order])


def test_the_rarest_finding_is_in_every_split_once_it_has_three_patients():
    labels = np.zeros((200, 2), dtype=np.float32)
    labels[:100, 0] = 1
    labels[[5, 120, 121], 1] = 1
    splits = assign_splits([str(i) for i in range(200)], labels)
    assert sorted(splits[labels[:, 1] == 1]) == sorted(SPLITS)


def test_shares_are_met_for_images_and_for_each_finding():
    ids, labels = random_site(1, 2000)
    splits = assign_splits(ids, labels, (0.6, 0.15, 0.25))
    for split, share in zip(SPLITS, (0.6, 0.15, 0.25), strict=True):
        here = splits == split
        assert here.mean() == pytest.approx(share, abs=0.01)
        found = np.nansum(labels[here], axis=0) / np.nansum(labels, axis=0)
        np.testing.assert_allclose(found, share, atol=0.04)


def test_a_share_of_nothing_gets_nothing():
    ids, labels = random_site(2, 50)
    assert set(assign_splits(ids, labels, (0.8, 0.2, 0.0))) == {"train", "val"}


def test_another_seed_gives_another_split():
    ids, labels = random_site(3, 100)
    assert (assign_splits(ids, labels, seed=0) != assign_splits(ids, labels, seed=1)).any()


def test_thirty_thousand_patients_take_seconds():
    ids, labels = random_site(4, 30_000, findings=14)
    start = time.perf_counter()
    assign_splits(ids, labels)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (-0.1, 0.5, 0.6)])
def test_fractions_must_add_up(fractions):
    with pytest.raises(ValueError, match="add up to 1"):
        assign_splits(["a"], np.zeros((1, 1), dtype=np.float32), fractions)


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(
        # patient, picture, SOP Instance UID, has a label: few of each, so that all kinds of twins occur
        st.tuples(st.integers(0, 8), st.integers(0, 12), st.integers(0, 12), st.booleans()),
        min_size=1,
        max_size=40,
    ),
    seed=st.integers(0, 5),
)
def test_a_store_is_split_by_patient_and_by_pixels_whatever_twins_there_are(files, seed):
    records = [
        Record(
            *(f"{number:02d}.dcm", 1, 1, f"source{number}", "ok"),
            pixel_sha256=f"pixels{picture}",
            facts=Facts(64, 64),
            identity=Identity(patient_id=f"P{patient}", sop_uid=f"1.2.{uid}"),
        )
        for number, (patient, picture, uid, _) in enumerate(files)
    ]
    table = pd.DataFrame(
        [(r.name, str(n % 2)) for n, (r, f) in enumerate(zip(records, files, strict=True)) if f[3]],
        columns=["file", "Effusion"],
        dtype=str,
    )
    vocabulary = load_vocabulary("nih14")
    if table.empty:
        return
    label_map = infer_label_map(table, vocabulary)
    labels = harmonise(table, label_map, vocabulary)
    source = SourceData(
        kind="dicom",
        files=tuple(SourceFile(r.name, Path(r.name)) for r in records),
        labels=labels,
        label_map="",
        table="t",
        preview=preview(table, label_map, vocabulary, labels),
    )
    join = join_labels(labels.keys, [r.name for r in records], {})
    final, kept = judge(records, join, source, b"salt")
    parts = manifest_parts(
        kept,
        records,
        source,
        vocabulary,
        salt=b"salt",
        site="s",
        fractions=(0.6, 0.2, 0.2),
        seed=seed,
        settings_hash="",
        size=64,
    )
    frame = pd.concat(parts)
    assert (frame.groupby("patient_key")["split"].nunique() == 1).all()
    assert frame["pixel_sha256"].is_unique
    assert (frame.groupby("pixel_sha256")["split"].nunique() == 1).all()
    # Every file has one outcome, and of each labelled picture one file is kept, unless its UID was another's.
    assert len(final) == len(files)
    outcomes = Counter(record.outcome for record in final)
    assert outcomes["ok"] == len(kept)
    assert outcomes["no_label"] == sum(not f[3] for f in files)
    lost = {r.pixel_sha256 for r, f in zip(records, files, strict=True) if f[3]} - set(frame["pixel_sha256"])
    assert all(r.outcome in ("duplicate_uid", "no_label") for r in final if r.pixel_sha256 in lost)
