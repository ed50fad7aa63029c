"""Joining label rows to images."""

from __future__ import annotations

import pytest

from nc_medfl.data.join import join_labels

NAMES = ["a/one.dcm", "b/two.dcm", "b/three", "c/1.2.840.5.dcm"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a/one.dcm", "a/one.dcm"),
        ("./a/one.dcm", "a/one.dcm"),
        ("a\\one.dcm", "a/one.dcm"),
        ("a/one", "a/one.dcm"),
        ("one.dcm", "a/one.dcm"),
        ("two", "b/two.dcm"),
        ("three.dcm", "b/three"),
        ("elsewhere/two.dcm", "b/two.dcm"),
        ("1.2.840.5", "c/1.2.840.5.dcm"),
        ("9.8.7.6", "b/two.dcm"),
    ],
)
def test_a_key_finds_its_image(key, name):
    join = join_labels([key], NAMES, {"b/two.dcm": "9.8.7.6"})
    assert join.label_of == {name: 0}
    assert join.unmatched == ()


def test_keys_without_an_image_are_listed():
    assert join_labels(["one", "nobody"], NAMES, {}).unmatched == (1,)


def test_a_path_wins_over_a_bare_name():
    names = ["a/x.dcm", "b/x.dcm"]
    assert join_labels(["a/x.dcm", "b/x.dcm"], names, {}).label_of == {"a/x.dcm": 0, "b/x.dcm": 1}
    both = join_labels(["x"], names, {})
    assert both.label_of == {"a/x.dcm": 0, "b/x.dcm": 0}
    assert both.by_bare_name == {0}


def test_uids_are_no_file_names_where_the_map_says_so():
    uids = {"b/three": "one"}
    assert join_labels(["one"], NAMES, uids, match_name=False).label_of == {"b/three": 0}
