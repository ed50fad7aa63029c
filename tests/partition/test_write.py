"""A partition on disk: stores that open, the same bytes again, nothing of the user's replaced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nc_medfl.config import load_site_config
from nc_medfl.data.store import Store, open_store
from nc_medfl.errors import UserError
from nc_medfl.partition import PartitionSettings, partition_store
from tests_support import tiny_store

SETTINGS = PartitionSettings(3, 1.0, missing_classes=2, seed=5, min_images=5)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("pool") / "store", images=300, prevalence=0.05)


@pytest.fixture(scope="module")
def written(pool: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("partition") / "sites"
    steps: list[tuple[int, int]] = []
    partition_store(pool, SETTINGS, out, lambda done, total: steps.append((done, total)))
    assert len(steps) == 3
    assert steps[-1][0] == steps[-1][1]
    return out


def test_every_site_opens_with_its_own_images_labels_and_split(pool: Store, written: Path) -> None:
    info = json.loads((written / "partition.json").read_text())
    of_pool = {key: row for row, key in enumerate(pool.manifest["sample_id"])}
    seen: list[str] = []
    for name, site in info["sites"].items():
        config = load_site_config(written / name / "site.yaml")
        assert config.name == name
        store = open_store(config.store)
        rows = [of_pool[key] for key in store.manifest["sample_id"]]
        np.testing.assert_array_equal(store.images(range(len(store))), pool.images(rows))
        np.testing.assert_array_equal(store.labels(), pool.labels()[rows])
        assert store.manifest["split"].tolist() == pool.manifest["split"].iloc[rows].tolist()
        assert set(store.manifest["site"]) == {name}
        assert store.info["settings_hash"] == pool.info["settings_hash"]
        assert len(store) == site["n_images"] == store.info["counts"]["ok"]
        assert len(site["missing"]) == 2
        for finding in site["missing"]:
            assert not (store.manifest[f"label:{finding}"] == 1).any()
        seen.extend(store.manifest["sample_id"])
    assert len(seen) == len(set(seen)) == len(pool) - info["dropped"]
    counts = pd.read_csv(written / "partition.csv")
    images = counts.drop_duplicates(["site", "split"])["n_images"].sum()
    assert images == len(seen)


def test_the_same_pool_and_settings_give_the_same_bytes(pool: Store, written: Path, tmp_path: Path) -> None:
    partition_store(pool, SETTINGS, tmp_path / "again")
    names = sorted(p.relative_to(written) for p in written.rglob("*") if p.is_file())
    assert Path("partition.png") in names
    assert names == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    for name in names:
        assert (written / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_no_file_names_a_patient_or_a_path(pool: Store, written: Path) -> None:
    for path in written.glob("partition.*"):
        content = path.read_bytes()
        assert str(pool.folder).encode() not in content
        assert not any(key.encode() in content for key in pool.manifest["patient_key"].unique())


def test_an_earlier_partition_is_replaced_whole_and_nothing_else_is(pool: Store, tmp_path: Path) -> None:
    out = tmp_path / "sites"
    partition_store(pool, PartitionSettings(4, 1.0, seed=1, min_images=2), out)
    partition_store(pool, PartitionSettings(2, 1.0, seed=1, min_images=2), out)
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["site-1", "site-2"]
    assert [p.name for p in tmp_path.iterdir()] == ["sites"]
    with pytest.raises(UserError, match="the pool lies in it"):
        partition_store(open_store(out / "site-1" / "store"), PartitionSettings(2, 1.0, min_images=2), out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not empty, and not an earlier partition"):
        partition_store(pool, SETTINGS, tmp_path / "mine")
    with pytest.raises(UserError, match="is a file"):
        partition_store(pool, SETTINGS, tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_a_failure_midway_leaves_the_earlier_partition(pool: Store, tmp_path: Path) -> None:
    out = tmp_path / "sites"
    partition_store(pool, SETTINGS, out)
    before = (out / "partition.json").read_bytes()

    def full(done: int, total: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="cannot be written \\(No space left on device\\)"):
        partition_store(pool, PartitionSettings(2, 1.0, min_images=2), out, full)
    assert (out / "partition.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["sites"]
