"""Stores: what is written is what is read, and damage is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nc_medfl.data.manifest import keyed_hash, normalise
from nc_medfl.data.store import INFO, copy_rows, open_store, shard_path, write_shard, write_store
from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary
from tests_support import tiny_store

TWO = Vocabulary("two", ("Edema", "Mass"))


def test_images_come_back_in_the_order_asked_for_over_shards(tmp_path: Path) -> None:
    pictures = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)
    write_shard(tmp_path, 0, pictures[:3])
    write_shard(tmp_path, 1, pictures[3:])
    frame = pd.DataFrame(
        {
            "sample_id": list("abcde"),
            "patient_key": list("aabbc"),
            "shard": [0, 0, 0, 1, 1],
            "row": [0, 1, 2, 0, 1],
            "label:Edema": [1, 0, None, 1, 0],
            "label:Mass": [0, 0, 0, 1, None],
        }
    )
    store = write_store(tmp_path, frame, TWO, size=4, settings={}, counts={}, settings_hash="h")
    np.testing.assert_array_equal(store.images([4, 0, 3, 2]), pictures[[4, 0, 3, 2]])
    np.testing.assert_array_equal(store.image(3), pictures[3])
    np.testing.assert_array_equal(store.labels(), [[1, 0], [0, 0], [np.nan, 0], [1, 1], [0, np.nan]])


def test_the_same_store_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    tiny_store(tmp_path / "a")
    tiny_store(tmp_path / "b")
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_copied_rows_hold_the_same_images(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "a", images=10)
    frame = copy_rows(store, [7, 2, 5], tmp_path / "b", rows_per_shard=2)
    copied = write_store(
        tmp_path / "b", frame, store.vocabulary, size=store.size, settings={}, counts={}, settings_hash="h"
    )
    np.testing.assert_array_equal(copied.images([0, 1, 2]), store.images([7, 2, 5]))
    np.testing.assert_array_equal(copied.labels(), store.labels()[[7, 2, 5]])


def test_a_missing_folder_a_half_store_and_damage_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_store(tmp_path / "none")
    with pytest.raises(UserError, match=r"no manifest.parquet, so not a store"):
        open_store(tmp_path)
    store = tiny_store(tmp_path / "a")
    shard_path(store.folder, 0).write_bytes(b"junk")
    with pytest.raises(UserError, match="missing or damaged"):
        open_store(store.folder).image(0)
    (store.folder / INFO).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        open_store(store.folder)


def test_a_store_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = tiny_store(tmp_path)
    path = store.folder / INFO
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(UserError, match="Upgrade nc_medfl"):
        open_store(store.folder)


def test_a_label_other_than_0_1_or_empty_is_refused() -> None:
    frame = pd.DataFrame({"sample_id": ["a"], "patient_key": ["p"], "shard": [0], "row": [0], "label:Edema": [2]})
    with pytest.raises(UserError, match="label:Edema holds 2"):
        normalise(frame, TWO.findings)


def test_keyed_hashes_differ_by_salt_and_kind_and_hide_the_identifier() -> None:
    a = keyed_hash(b"salt", "patient", "12345")
    assert a == keyed_hash(b"salt", "patient", "12345")
    assert len({a, keyed_hash(b"other", "patient", "12345"), keyed_hash(b"salt", "study", "12345")}) == 3
    assert "12345" not in a
