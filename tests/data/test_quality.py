"""The quality page: right numbers, small ones withheld, odd images found, no pixels unless asked for."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.data.quality import refresh_quality, write_quality
from nc_medfl.data.quality.counts import MINIMUM, guarded
from nc_medfl.data.quality.measure import measure, outliers, robust_distance
from nc_medfl.data.quality.tables import histogram, prevalence
from nc_medfl.data.store import Store, write_shard, write_store
from nc_medfl.labels import Vocabulary
from tests_support import tiny_store

TWO = Vocabulary("two", ("Edema", "Mass"))


def made(folder: Path, pictures: np.ndarray, **columns: object) -> Store:
    write_shard(folder, 0, pictures)
    count = len(pictures)
    frame = pd.DataFrame(
        {
            "sample_id": [f"s{number:03d}" for number in range(count)],
            "patient_key": [f"p{number // 2:03d}" for number in range(count)],
            "shard": 0,
            "row": range(count),
            **columns,
        }
    )
    info = {"source": "dicom", "site": "north"}
    counts = {"ok": count, "modality": 7, "burned_in": 2}
    return write_store(folder, frame, TWO, size=pictures.shape[1], settings=info, counts=counts, settings_hash="h")


def chest(rng: np.random.Generator, size: int = 48) -> np.ndarray:
    """Dark air in the upper corners, a brighter middle, some noise."""
    picture = rng.normal(60, 12, (size, size))
    picture[size // 5 :, size // 5 : -size // 5] += 90
    return np.clip(picture, 0, 255).astype(np.uint8)


def chests(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([chest(rng) for _ in range(count)])


def page_and_numbers(store: Store, **how: bool) -> tuple[str, dict]:
    page, data = write_quality(store, **how)
    return page.read_text(), json.loads(data.read_text())


def test_counts_by_hand(tmp_path):
    # 20 images: 12 F and 8 M; 6 positive, 9 negative and 5 unknown for Edema; ages 5, 45 (x18), 90.
    store = made(
        tmp_path,
        chests(20),
        sex=["F"] * 12 + ["M"] * 8,
        age=[5.0] + [45.0] * 18 + [90.0],
        view=["PA"] * 20,
        lossy=[True] * 10 + [False] * 10,
        transfer_syntax="1.2.840.10008.1.2.1",
        **{"label:Edema": [1] * 6 + [0] * 9 + [None] * 5, "label:Mass": [0] * 20},
    )
    text, numbers = page_and_numbers(store)
    assert (numbers["images"], numbers["patients"]) == (20, 10)
    assert numbers["categories"]["sex"] == {"F": 12, "M": 8}
    assert numbers["categories"]["lossy"] == {"no": 10, "yes": 10}
    assert numbers["categories"]["transfer_syntax"] == {"Explicit VR Little Endian": 20}
    assert numbers["labels"]["Edema"] == {"positive": 6, "negative": 9, "unknown": 5}
    assert numbers["labels"]["Mass"] == {"positive": 0, "negative": 20, "unknown": 0}
    # One child and one of 90 and over: two alone would be known to be 2, so the 18 go too.
    ages = {band: count for band, count in numbers["age"].items() if count != 0}
    assert ages == {"0-9": None, "40-49": None, "90+": None}
    assert numbers["outcomes"] == {"ok": 20, "modality": None, "burned_in": None}
    assert "40.0%" in text  # 6 of 15 annotated
    assert "north" in text


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 60), max_size=8))
def test_no_withheld_count_can_be_worked_out_from_the_total(counts):
    shown = guarded(counts)
    assert shown.keys() == counts.keys()
    assert all(count is None or count == counts[key] for key, count in shown.items())
    assert not any(count is not None and 0 < count < MINIMUM for count in shown.values())
    withheld = [counts[key] for key, count in shown.items() if count is None]
    if sum(1 for count in counts.values() if count) > 1 and withheld:
        # What is left of the total belongs to several groups, and together they are not few.
        assert len(withheld) >= 2
        assert sum(withheld) >= MINIMUM or all(count in (None, 0) for count in shown.values())


def test_prevalence_is_of_the_annotated_and_withheld_with_its_counts():
    assert prevalence({"positive": 6, "negative": 18, "unknown": 100}) == 0.25
    assert prevalence({"positive": None, "negative": 18, "unknown": None}) is None
    assert prevalence({"positive": 0, "negative": 0, "unknown": 9}) is None


def test_a_histogram_equals_numpys_where_nothing_is_withheld():
    values = np.repeat([0.05, 0.31, 0.32, 0.97, np.nan], 6)
    part = histogram("x", values, np.linspace(0, 1, 11))
    expected, edges = np.histogram(values[~np.isnan(values)], bins=np.linspace(0, 1, 11))
    assert part["counts"] == expected.tolist()
    np.testing.assert_allclose(part["edges"], edges)
    assert part["unknown"] == 6
    assert not part["above"]
    assert histogram("x", np.full(6, 3.0), [0, 1, 2])["above"]
    assert histogram("x", np.full(6, np.nan), [0, 1, 2])["counts"] == []


def test_measures_leave_padding_out_and_are_those_of_numpy(tmp_path):
    pictures = chests(3)
    store = made(tmp_path, pictures, pad_box=["10,0,20,48"] * 2 + [None])
    found = measure(store)
    parts = [pictures[0][10:30], pictures[1][10:30], pictures[2]]
    np.testing.assert_allclose(found.mean, [part.mean() / 255 for part in parts])
    np.testing.assert_allclose(found.deviation, [part.std() / 255 for part in parts])
    np.testing.assert_allclose(found.aspect, [48 / 20, 48 / 20, 1])
    np.testing.assert_allclose(found.black, [(part <= 8).mean() for part in parts])


def test_the_robust_distance_by_hand():
    # Median 3, absolute deviations 2, 1, 0, 1, 97, their median 1.
    np.testing.assert_allclose(robust_distance(np.array([1.0, 2, 3, 4, 100])), 0.6745 * np.array([-2, -1, 0, 1, 97]))
    assert robust_distance(np.full(4, 7.0)).tolist() == [0, 0, 0, 0]
    assert len(robust_distance(np.empty(0))) == 0


def test_odd_images_are_listed_with_the_reason_and_ordinary_ones_are_not(tmp_path):
    pictures = chests(40)
    pictures[3] = 2
    pictures[7] = 253
    pictures[11] = 255 - pictures[11]
    boxes = ["0,0,48,48"] * 40
    boxes[20] = "0,0,48,20"
    found = outliers(measure(made(tmp_path, pictures, pad_box=boxes)))
    assert set(found) >= {3, 7, 11, 20}
    assert len(found) <= 6
    assert "almost black" in found[3]
    assert "almost white" in found[7]
    assert any("inverted" in reason for reason in found[11])
    assert "oddly shaped" in found[20]


def test_real_radiographs_turned_over_are_found_and_upright_ones_are_not(shared_data, tmp_path):
    cv2 = pytest.importorskip("cv2")
    paths = sorted((shared_data / "nih1000" / "images").iterdir())[:200]
    upright = np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths])
    both = np.concatenate([upright, 255 - upright])
    found = outliers(measure(made(tmp_path, both)))
    inverted = [position for position, reasons in found.items() if any("inverted" in reason for reason in reasons)]
    assert sum(position >= 200 for position in inverted) > 120
    assert sum(position < 200 for position in inverted) <= 4


def test_no_pixels_and_no_keys_of_patients_unless_thumbnails_are_asked_for(tmp_path):
    pictures = chests(30)
    pictures[3] = 2
    store = made(tmp_path, pictures)
    text, numbers = page_and_numbers(store)
    assert "<img" not in text
    assert "data:image" not in text
    assert not re.search(r"\bp\d{3}\b", text + json.dumps(numbers))
    assert str(tmp_path) not in text + json.dumps(numbers)
    assert numbers["outliers"][0]["sample_id"] == "s003"
    text, _ = page_and_numbers(store, thumbnails=True)
    assert text.count("<img") == len(numbers["outliers"])


def test_the_same_store_gives_the_same_bytes(tmp_path):
    pages = []
    for name in ("one", "two"):
        store = tiny_store(tmp_path / name, images=40, size=16)
        pages.append([path.read_bytes() for path in write_quality(store)])
    assert pages[0] == pages[1]


def test_the_page_is_well_formed_and_needs_no_script_and_no_network(tmp_path):
    text, _ = page_and_numbers(tiny_store(tmp_path / "s", images=40, size=16))
    open_tags: list[str] = []
    headings = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img", "rect", "line", "br"):
                open_tags.append(tag)
            if tag == "h2":
                headings.append(tag)
            names = dict(attrs)
            assert "src" not in names
            assert names.get("href", "#").startswith("#")

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(text)
    assert open_tags == []
    assert len(headings) == 6
    assert "<script" not in text
    assert 'lang="en"' in text


def test_an_empty_store_has_a_page(tmp_path):
    store = made(tmp_path, chests(2))
    empty = write_store(
        tmp_path, store.manifest.iloc[:0], TWO, size=48, settings={}, counts={"withdrawn": 9}, settings_hash="h"
    )
    text, numbers = page_and_numbers(empty)
    assert numbers["images"] == 0
    assert "Not known for any image" in text


def test_it_is_written_again_only_where_there_is_one(tmp_path):
    store = made(tmp_path, chests(20))
    assert not refresh_quality(store)
    assert not (tmp_path / "quality.html").exists()
    write_quality(store, thumbnails=True)
    assert refresh_quality(store)
    assert "<img" not in (tmp_path / "quality.html").read_text()
