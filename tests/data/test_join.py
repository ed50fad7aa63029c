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
        ("/archive/b/two.dcm", "b/two.dcm"),
        ("archive\\b\\two", "b/two.dcm"),
        ("two.png", "b/two.dcm"),
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
    # The row without a folder is about no image of its own once another row names the whole path.
    named = join_labels(["x", "b/x.dcm", "a/x.dcm"], names, {})
    assert named.label_of == {"a/x.dcm": 2, "b/x.dcm": 1}
    assert named.unmatched == (0,)


def test_the_label_of_an_absent_image_is_not_taken_by_its_namesake_of_another_patient():
    # Most archives name the files alike in each patient's folder.
    names = ["p4/view1.dcm", "p5/view1.dcm"]
    join = join_labels(["p3/view1.dcm", "p4/view1.dcm"], names, {})
    assert join.label_of == {"p4/view1.dcm": 1}
    assert join.unmatched == (0,)


def test_keys_that_fit_one_image_equally_well_are_rivals():
    join = join_labels(["b/two", "one", "b/two.dcm", "1.2.3"], NAMES, {"a/one.dcm": "1.2.3"})
    assert join.rivals == ((0, 2),)
    # A UID says more than a name without its folder.
    assert join.label_of == {"b/two.dcm": 0, "a/one.dcm": 3}
    assert join.unmatched == (1,)


def test_letters_taken_apart_into_letter_and_accent_are_the_same():
    assert join_labels(["Mu\u0308ller 1.dcm"], ["M\u00fcller 1.dcm"], {}).label_of == {"M\u00fcller 1.dcm": 0}


def test_a_hundred_thousand_namesakes_are_joined_at_once():
    names = [f"p{number}/s1/view1.dcm" for number in range(100_000)]
    join = join_labels([f"archive/{name}" for name in names], names, {})
    assert join.label_of == {name: number for number, name in enumerate(names)}


def test_uids_are_no_file_names_where_the_map_says_so():
    uids = {"b/three": "one"}
    assert join_labels(["one"], NAMES, uids, match_name=False).label_of == {"b/three": 0}


def test_an_accession_number_covers_all_images_of_the_examination():
    accessions = {"a/one.dcm": "A7", "b/two.dcm": "A7", "b/three": "", "c/1.2.840.5.dcm": "A9"}
    join = join_labels(["A7", "one", "A8"], NAMES, {}, accessions=accessions, match_name=False, match_uid=False)
    assert join.label_of == {"a/one.dcm": 0, "b/two.dcm": 0}
    assert join.unmatched == (1, 2)


@pytest.mark.parametrize("key", ["scan", "scan.nii.gz", "scan.png", "x/scan.nii"])
def test_a_nifti_is_found_with_and_without_both_of_its_extensions(key):
    assert join_labels([key], ["x/scan.nii.gz"], {}).label_of == {"x/scan.nii.gz": 0}


def test_names_of_hostile_length_and_kind_are_keys_like_others():
    names = ["=cmd|x.dcm", "../" + "a" * 4000 + ".dcm", "x\x1b[31m.dcm"]
    assert join_labels(["=cmd|x", "a" * 4000, "x\x1b[31m"], names, {}).label_of == {n: i for i, n in enumerate(names)}


def test_capitals_count_only_where_something_else_fits():
    assert join_labels(["A/ONE.DCM", "Two"], NAMES, {}).label_of == {"a/one.dcm": 0, "b/two.dcm": 1}
    # Written exactly so, a row is about its own file; another in other capitals is about none.
    names = ["x/IM1.dcm", "x/im1.dcm"]
    assert join_labels(["im1", "IM1"], names, {}).label_of == {"x/IM1.dcm": 1, "x/im1.dcm": 0}
    join = join_labels(["IM2", "im2"], ["x/im2.dcm"], {})
    assert (join.label_of, join.unmatched, join.rivals) == ({"x/im2.dcm": 1}, (0,), ())


@pytest.mark.parametrize("key", ["1.2.840.7", "1.2.840.7.dcm", "archive/p1/1.2.840.7.DCM", "p1\\1.2.840.7"])
def test_a_file_named_after_its_uid_is_found_by_it(key):
    assert join_labels([key], ["IM0001"], {"IM0001": "1.2.840.7"}).label_of == {"IM0001": 0}


def test_an_accession_number_with_a_slash_is_no_path():
    join = join_labels(["2020/123"], ["x"], {}, accessions={"x": "2020/123"}, match_name=False)
    assert join.label_of == {"x": 0}
