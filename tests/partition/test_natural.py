"""Sites by a column: whole patients, the value that most of their images have, nothing drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_support import FINDINGS, labelled, make_pool
from typer.testing import CliRunner

from nc_medfl.benchmark.datasets import make_pool as benchmark_pool
from nc_medfl.benchmark.matrix import PartitionSpec, StoreData
from nc_medfl.benchmark.sites import deal
from nc_medfl.cli.main import app
from nc_medfl.config import SiteConfig
from nc_medfl.data.store import copy_rows, open_store, write_store
from nc_medfl.errors import UserError
from nc_medfl.partition import NaturalSettings, plan_natural
from tests_support import tiny_store

BY_VIEW = NaturalSettings("view", min_images=1)


def test_a_patient_goes_whole_where_most_of_their_images_are_by_hand() -> None:
    # p0: PA, PA, AP -> PA. p1: AP, PA -> a tie, AP comes first. p2: no value -> nowhere. p3, p4, p5 and p6, p7, p8 fill
    # the splits of the two.
    owner = [0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]
    split = ["train"] * 6 + ["train", "val", "test"] * 2
    frame = labelled(owner, split, np.zeros((12, len(FINDINGS))))
    frame["view"] = ["PA", "PA", "AP", "AP", "PA", None, "PA", "PA", "PA", "AP", "AP", "AP"]
    plan = plan_natural(frame, FINDINGS, BY_VIEW)
    assert plan.names == ("AP", "PA")
    assert plan.site.tolist() == [1, 1, 1, 0, 0, -1, 1, 1, 1, 0, 0, 0]
    assert plan.dropped == 1


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), values=st.integers(2, 4), empty=st.floats(0, 0.3))
def test_no_patient_is_split_and_every_image_of_a_pure_patient_is_at_its_value(
    seed: int, values: int, empty: float
) -> None:
    frame = make_pool(400, seed=seed)
    rng = np.random.default_rng(seed)
    kinds = np.array([f"v{k}" for k in range(values)], dtype=object)
    view = kinds[rng.integers(0, values, len(frame))]
    view[rng.random(len(frame)) < empty] = ""
    frame["view"] = view
    plan = plan_natural(frame, FINDINGS, BY_VIEW)
    told = pd.DataFrame({"patient": frame["patient_key"], "site": plan.site, "view": view})
    assert (told.groupby("patient")["site"].nunique() == 1).all()
    for _, rows in told.groupby("patient"):
        named = set(rows["view"]) - {""}
        if len(named) == 1:
            assert plan.names[rows["site"].iloc[0]] == named.pop()
        assert (rows["site"].iloc[0] == -1) == (not set(rows["view"]) - {""})


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("nothing", None, r"--by nothing: the column isn't there; .* Name one of: view"),
        ("patient_key", None, r"--by patient_key: the column has 60 values"),
        ("maker", lambda n: ["one"] * n, r"--by maker: the column has 1 values"),
        (
            "maker",
            lambda n: ["a/b", "a b"] * (n // 2) + ["a b"] * (n % 2),
            r"'a b' and 'a/b' would make",
        ),
        ("maker", lambda n: ["x"] * (n - 1) + ["y"], r"site 'y' has 0 (train|val|test) images and needs 1"),
    ],
)
def test_a_column_that_makes_no_sites_is_a_users_mistake(column: str, values: object, message: str) -> None:
    frame = make_pool(60, images=1)
    frame["view"] = np.where(np.arange(len(frame)) % 2 == 0, "PA", "AP")
    if callable(values):
        frame[column] = values(len(frame))
    with pytest.raises(UserError, match=message):
        plan_natural(frame, FINDINGS, NaturalSettings(column, min_images=1))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("natural")
    store = tiny_store(folder / "plain", images=120, prevalence=0.1)
    frame = copy_rows(store, np.arange(len(store)), folder / "store")
    codes = pd.factorize(frame["patient_key"])[0]
    frame["view"] = np.where(codes % 3 == 0, "AP", "PA")
    about, counts = store.info["settings"], {"ok": len(store)}
    hash_ = store.info["settings_hash"]
    write_store(
        folder / "store", frame, store.vocabulary, size=store.size, settings=about, counts=counts, settings_hash=hash_
    )
    return folder / "store"


def test_the_command_writes_a_site_for_each_value(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "sites"
    command = ["partition", str(pool), "--by", "view", "--min-images", "5", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert list(said["sites"]) == ["AP", "PA"]
    for name in ("AP", "PA"):
        assert set(open_store(out / name / "store").manifest["view"]) == {name}
    both = CliRunner().invoke(app, [*command, "--sites", "3"])
    assert "the column says the sites" in str(both.exception)
    neither = CliRunner().invoke(app, ["partition", str(pool), "--out", str(out)])
    assert "Give --sites NUMBER, or --by COLUMN" in str(neither.exception)


def test_the_bench_deals_by_the_same_column(pool: Path, tmp_path: Path) -> None:
    made = benchmark_pool(StoreData(kind="store", path=pool), 0, tmp_path)
    vocabulary = open_store(pool).vocabulary
    dealt = deal(made, PartitionSpec(by="view", min_images=5), 0, tmp_path, vocabulary)
    view = open_store(pool).manifest["view"]
    assert {name: len(store) for name, store in dealt.sites.items()} == view.value_counts().to_dict()


@pytest.mark.parametrize(("unknown_as", "expected"), [("unknown", np.nan), ("negative", 0.0)])
def test_findings_are_unknown_at_some_sites_and_known_at_another(
    pool: Path, tmp_path: Path, unknown_as: str, expected: float
) -> None:
    made = benchmark_pool(StoreData(kind="store", path=pool), 0, tmp_path)
    vocabulary = open_store(pool).vocabulary
    spec = PartitionSpec(sites=3, unknown=4, unknown_as=unknown_as, min_images=5)
    plain = deal(made, PartitionSpec(sites=3, min_images=5), 0, tmp_path, vocabulary)
    hidden = deal(made, spec, 0, tmp_path, vocabulary)
    touched = np.zeros((3, len(vocabulary)), dtype=bool)
    for number, name in enumerate(plain.sites):
        before, after = plain.sites[name].labels(), hidden.sites[name].labels()
        touched[number] = [
            np.array_equal(after[:, c], np.full(len(after), expected), equal_nan=True) for c in range(len(vocabulary))
        ]
        np.testing.assert_array_equal(before[:, ~touched[number]], after[:, ~touched[number]])
    if unknown_as == "unknown":
        assert touched.sum(axis=1).tolist() == [4, 4, 4]
        assert not touched.all(axis=0).any()
    np.testing.assert_array_equal(hidden.test.labels(), plain.test.labels())


def test_a_value_becomes_a_name_that_a_site_may_have() -> None:
    frame = labelled([0, 1, 2, 3, 4, 5], ["train", "val", "test"] * 2, np.zeros((6, len(FINDINGS))))
    frame["view"] = ["St. Mary"] * 3 + ["1.5 T"] * 3
    names = plan_natural(frame, FINDINGS, BY_VIEW).names
    assert sorted(names) == ["1-5-T", "St-Mary"]
    assert all(SiteConfig(name=name, store=Path("store")).name == name for name in names)
