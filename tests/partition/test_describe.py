"""What each site holds, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from partition_support import labelled

from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary
from nc_medfl.partition import describe_sites, label_skew, total_variation
from nc_medfl.partition.describe import SiteDescription, describe_manifests
from nc_medfl.partition.picture import draw_description
from nc_medfl.partition.tables import markdown_page
from tests_support import tiny_store

NAN = float("nan")


@pytest.fixture(scope="module")
def two_sites() -> SiteDescription:
    # Site a: patients 0, 0, 1 in train, 2 in test. Site b: nobody reads for Mass.
    a = labelled(
        [0, 0, 1, 2], ["train"] * 3 + ["test"], np.array([[1, 1], [1, 0], [0, 0], [1, 1]], "f4"), ("Edema", "Mass")
    )
    b = labelled([3, 4], ["train", "val"], np.array([[0, NAN], [1, NAN]], "f4"), ("Edema", "Mass"))
    return describe_manifests({"a": a, "b": b}, ("Edema", "Mass"))


def test_counts_by_hand(two_sites: SiteDescription) -> None:
    table = two_sites.counts.set_index(["site", "split", "finding"])
    columns = ["n_images", "n_patients", "n_positive", "n_negative", "n_unknown"]
    assert table.loc[("a", "train", "Edema"), columns].tolist() == [3, 2, 2, 1, 0]
    assert table.loc[("a", "train", "Edema"), "prevalence"] == pytest.approx(2 / 3)
    assert table.loc[("a", "train", "No Finding"), columns].tolist() == [3, 2, 1, 2, 0]
    assert table.loc[("b", "val", "Mass"), columns].tolist() == [1, 1, 0, 0, 1]
    assert np.isnan(table.loc[("b", "val", "Mass"), "prevalence"])
    assert table.loc[("a", "val", "Mass"), "n_images"] == 0
    pairs = two_sites.cooccurrence.set_index("site")
    assert pairs.loc["a", ["finding_a", "finding_b", "n"]].tolist() == ["Edema", "Mass", 2]


def test_distances_by_hand(two_sites: SiteDescription) -> None:
    # Edema: a 3/4, b 1/2, together 4/6. Mass: a 2/4, b unknown, together 2/4.
    # Label skew: a (1/12 + 0) / 2 = 1/24, b 1/6.
    # Positives (Edema, Mass, No Finding): a 3, 2, 1; b 1, 0, 1; together 4, 2, 2.
    # Total variation: a (|1/2-1/2| + |1/3-1/4| + |1/6-1/4|) / 2 = 1/12; b (0 + 1/4 + 1/4) / 2 = 1/4.
    sites = two_sites.sites.set_index("site")
    assert sites["label_skew"].tolist() == pytest.approx([1 / 24, 1 / 6])
    assert sites["total_variation"].tolist() == pytest.approx([1 / 12, 1 / 4])
    assert sites.loc["a", ["n_images", "n_patients", "train", "val", "test"]].tolist() == [4, 3, 3, 0, 1]


def test_label_skew_leaves_out_what_one_of_them_does_not_know() -> None:
    assert label_skew([0.5, NAN], [0.3, 0.1]) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="no finding is known to both"):
        label_skew([NAN, 0.1], [0.2, NAN])
    with pytest.raises(ValueError, match="differ"):
        label_skew([0.1], [0.1, 0.2])


@given(counts=arrays(np.int64, (2, 6), elements=st.integers(0, 500)).filter(lambda c: bool(c.sum(axis=1).all())))
def test_total_variation_is_the_largest_difference_over_sets_of_labels(counts: np.ndarray) -> None:
    # Its other definition: the maximum over subsets of the difference of their probabilities.
    p, q = counts / counts.sum(axis=1, keepdims=True)
    subsets = (np.arange(64)[:, None] >> np.arange(6)) & 1
    assert total_variation(counts[0], counts[1]) == pytest.approx(np.abs(subsets @ (p - q)).max())


def test_total_variation_without_a_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="no positive"):
        total_variation([0, 0], [1, 2])
    with pytest.raises(ValueError, match="0 or more"):
        total_variation([-1, 2], [1, 2])


def test_undefined_stays_undefined_in_tables_and_picture(tmp_path: Path) -> None:
    a = labelled([0, 1], ["train", "val"], np.array([[1], [0]], "f4"), ("Edema",))
    b = labelled([2, 3], ["train", "val"], np.full((2, 1), NAN, "f4"), ("Edema",)).assign(**{"label:No Finding": NAN})
    description = describe_manifests({"a": a, "b": b}, ("Edema",))
    assert description.sites.set_index("site").loc["b", ["label_skew", "total_variation"]].isna().all()
    page = markdown_page(description, "Two sites", [])
    assert "| b | 2 | 1 | 1 | 0 | 2 | undefined | undefined |" in page
    assert "| Edema | 1 (50.0%) | unknown |" in page
    draw_description(description, tmp_path / "a.png", title="Two sites")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_stores_are_described_by_name_and_must_share_a_vocabulary(tmp_path: Path) -> None:
    one, two = tiny_store(tmp_path / "1"), tiny_store(tmp_path / "2", seed=1)
    description = describe_sites({"north": one, "south": two})
    assert description.sites["site"].tolist() == ["north", "south"]
    expected = pd.DataFrame(two.labels(), columns=list(two.vocabulary.findings)).sum()
    assert (description.positives().loc["south", list(expected.index)] == expected).all()
    other = tiny_store(tmp_path / "3", vocabulary=Vocabulary("other", ("Edema", "Mass")))
    with pytest.raises(UserError, match="west: labelled for 'other'"):
        describe_sites({"north": one, "west": other})
    with pytest.raises(UserError, match="no site"):
        describe_sites({})
