"""The page for review: a private, repeatable sample of pictures that needs no network."""

from __future__ import annotations

import base64
import re

import imagecodecs
import numpy as np
import pytest

from nc_medfl.data.review import sample_for_review, write_review
from nc_medfl.data.store import Store, write_store
from nc_medfl.errors import UserError
from tests_support import tiny_store


def with_states(store: Store, states: list[str], boxes: list[str] | None = None) -> Store:
    """The same store with what the headers say about burned-in text."""
    frame = store.manifest.copy()
    frame["burned_in"] = states
    if boxes:
        frame["pad_box"] = boxes
    return write_store(
        store.folder, frame, store.vocabulary, size=store.size, settings={}, counts={}, settings_hash="h"
    )


@pytest.fixture
def store(tmp_path) -> Store:
    return tiny_store(tmp_path / "store", images=12, size=16)


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [imagecodecs.png_decode(base64.b64decode(text)) for text in found]


def ids(page: str) -> list[str]:
    return re.findall(r'<input type="checkbox" value="([^"]+)">', page)


def test_each_picture_stands_with_its_own_sample(store):
    page = write_review(store, 5).read_text()
    assert len(ids(page)) == len(set(ids(page))) == 5
    position = {sample: number for number, sample in enumerate(store.manifest["sample_id"])}
    for sample, picture in zip(ids(page), pictures(page), strict=True):
        np.testing.assert_array_equal(picture, store.image(position[sample]))


def test_padding_is_not_shown(store):
    padded = with_states(store, ["unknown"] * 12, ["4,0,8,16"] * 12)
    assert {picture.shape for picture in pictures(write_review(padded, 3).read_text())} == {(8, 16)}


def test_it_is_the_owners_alone_and_lies_in_site_private(store):
    path = write_review(store, 3)
    assert path == store.folder / "site_private" / "review.html"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_it_needs_nothing_from_outside(store):
    page = write_review(store, 3).read_text()
    assert not re.search(r"(?:https?:)?//[a-z]", page)
    assert "default-src 'none'" in page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(address.startswith(("data:image/png", "#")) for address in addresses)


def test_the_same_seed_gives_the_same_page_and_another_another(store):
    first = write_review(store, 4, seed=3).read_bytes()
    assert write_review(store, 4, seed=3).read_bytes() == first
    assert set(ids(write_review(store, 4, seed=4).read_text())) != set(ids(first.decode()))


def test_the_sample_does_not_hang_on_the_order_of_the_manifest(store):
    chosen = set(store.manifest["sample_id"].iloc[sample_for_review(store, 5, 0)])
    turned = write_store(
        store.folder, store.manifest[::-1], store.vocabulary, size=16, settings={}, counts={}, settings_hash="h"
    )
    assert set(turned.manifest["sample_id"].iloc[sample_for_review(turned, 5, 0)]) == chosen


def test_images_whose_header_says_nothing_come_first(store):
    states = ["no", "unknown", "no"] * 4
    chosen = sample_for_review(with_states(store, states), 6, 0)
    assert [states[position] for position in chosen] == ["unknown"] * 4 + ["no"] * 2


def test_a_small_store_is_shown_whole_and_none_is_a_mistake(store):
    assert sorted(sample_for_review(store, 100, 0)) == list(range(12))
    with pytest.raises(UserError, match="--review 0"):
        write_review(store, 0)
