"""Label tables: what becomes of each value, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.errors import UserError
from nc_medfl.labels import LabelMap, Vocabulary, harmonise, infer_label_map, load_label_map, load_vocabulary
from nc_medfl.labels.label_map import canonical

NAN = float("nan")
TWO = Vocabulary("two", ("Effusion", "Mass"))


def table(text: str) -> pd.DataFrame:
    """A table from lines of cells between commas."""
    header, *rows = [line.split(",") for line in text.split()]
    return pd.DataFrame(rows, columns=header, dtype=str)


def wide(**changes) -> LabelMap:
    base = {"name": "m", "vocabulary": "two", "image_column": "file", "findings": {"eff": "Effusion", "tumour": "Mass"}}
    return LabelMap.model_validate({**base, **changes})


def same(found, expected) -> None:
    np.testing.assert_array_equal(np.asarray(found, dtype=np.float32), np.asarray(expected, dtype=np.float32))


def test_values_by_hand():
    rows = table("file,eff,tumour a,1,0 b,1.0,-1 c,,0 d,0,0")
    labels = harmonise(rows, wide(), TWO)
    same(labels.labels, [[1, 0], [1, NAN], [NAN, 0], [0, 0]])
    # A finding present: 0. One unknown, none present: can't be told. All absent: 1.
    same(labels.no_finding, [0, 0, NAN, 1])
    assert labels.keys == ("a", "b", "c", "d")
    assert labels.raw["Mass"] == ("0", "-1", "0", "0")


@pytest.mark.parametrize(("policy", "expected"), [("ignore", NAN), ("zeros", 0), ("ones", 1)])
def test_uncertain_policies(policy, expected):
    same(harmonise(table("file,eff,tumour a,-1,0"), wide(uncertain=policy), TWO).labels, [[expected, 0]])


@pytest.mark.parametrize(("policy", "expected"), [("unknown", NAN), ("negative", 0)])
def test_blank_policies(policy, expected):
    same(harmonise(table("file,eff,tumour a,,0"), wide(blank=policy), TWO).labels, [[expected, 0]])


def test_words_may_be_values():
    values = {"positive": ["yes", "Y"], "negative": ["no"], "uncertain": ["maybe"], "unknown": ["not read"]}
    rows = table("file,eff,tumour a,YES,no b,y,maybe")
    rows.loc[len(rows)] = ["c", " Not Read ", "No"]
    same(harmonise(rows, wide(values=values), TWO).labels, [[1, 0], [1, NAN], [NAN, 0]])


def test_a_finding_without_a_column_is_unknown():
    same(harmonise(table("file,eff a,0"), wide(findings={"eff": "Effusion"}), TWO).labels, [[0, NAN]])


def test_two_columns_of_one_finding_are_joined():
    both = wide(findings={"left": "Effusion", "right": "Effusion", "tumour": "Mass"})
    rows = table("file,left,right,tumour a,1,0,0 b,0,0,0 c,0,-1,0 d,-1,1,0")
    same(harmonise(rows, both, TWO).labels[:, 0], [1, 0, NAN, 1])


def test_no_finding_of_the_source_is_kept_where_it_does_not_contradict():
    with_normal = wide(findings={"eff": "Effusion", "tumour": "Mass", "normal": "No Finding"})
    rows = table("file,eff,tumour,normal a,1,0,1 b,,,1 c,0,0,0 d,0,0,1")
    labels = harmonise(rows, with_normal, TWO)
    # a contradicts itself: the finding counts. c: something else is there that the vocabulary doesn't have.
    same(labels.no_finding, [0, 1, 0, 1])
    assert labels.contradictory == 1


@given(st.lists(st.sampled_from(["1", "0", "-1", ""]), min_size=2, max_size=2), st.sampled_from(["1", "0", ""]))
def test_no_finding_never_stands_beside_a_finding(cells, normal):
    with_normal = wide(findings={"eff": "Effusion", "tumour": "Mass", "normal": "No Finding"})
    rows = pd.DataFrame([["a", *cells, normal]], columns=["file", "eff", "tumour", "normal"])
    labels = harmonise(rows, with_normal, TWO)
    if labels.no_finding[0] == 1:
        assert not (labels.labels == 1).any()
    if (labels.labels == 0).all() and not normal:
        assert labels.no_finding[0] == 1


def test_listed_findings_are_present_and_the_others_absent():
    listed = LabelMap.model_validate(
        {
            "name": "m",
            "vocabulary": "two",
            "image_column": "file",
            "delimited": {"column": "says", "names": {"effusion": "Effusion", "tumour": "Mass"}},
        }
    )
    rows = pd.DataFrame(
        [["a", "Effusion|Tumour"], ["b", "No Finding"], ["c", ""], ["d", " tumour "]], columns=["file", "says"]
    )
    labels = harmonise(rows, listed, TWO)
    same(labels.labels, [[1, 1], [0, 0], [NAN, NAN], [0, 1]])
    same(labels.no_finding, [0, 1, NAN, 0])


def test_equal_rows_of_one_image_are_merged_and_unequal_ones_refused():
    labels = harmonise(table("file,eff,tumour a,1, a,1, b,0,0"), wide(), TWO)
    assert (labels.keys, labels.merged, labels.rows) == (("a", "b"), 1, (0, 2))
    with pytest.raises(UserError, match=r"rows 2 and 4 are about one image and disagree"):
        harmonise(table("file,eff,tumour a,1,0 b,1,0 a,0,0"), wide(), TWO)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ("name,eff,tumour a,1,0", {}, r"t\.csv: no column 'file' \(it has: name, eff, tumour\)\. .*--image-column"),
        ("file,eff a,1", {}, "no column 'tumour'"),
        ("file,eff,tumour a,2,0", {}, r"column 'eff' holds '2' \(row 2\)"),
        ("file,eff,tumour ,1,0", {}, "row 2 has an empty 'file'"),
        ("file,eff a,1", {"findings": {"eff": "Efusion"}}, r"'Efusion' \(did you mean 'Effusion'\?\)"),
        ("file,eff a,1", {"vocabulary": "nih14"}, "maps to vocabulary 'nih14'"),
        ("file,eff,tumour a,1,0", {"patient_column": "pid"}, "no column 'pid'"),
    ],
)
def test_bad_tables_are_refused_with_the_remedy(rows, changes, message):
    with pytest.raises(UserError, match=message):
        harmonise(table(rows), wide(**changes), TWO, where="t.csv")


def test_an_unknown_listed_finding_is_named_with_its_nearest():
    rows = pd.DataFrame(
        [["x.png", "Effusion|Atelectasys", "1"]], columns=["Image Index", "Finding Labels", "Patient ID"]
    )
    with pytest.raises(UserError, match=r"'Atelectasys' \(did you mean 'Atelectasis'\?\).*--label-map"):
        harmonise(rows, load_label_map("nih"), load_vocabulary("nih14"))


@given(st.integers(-1000, 1000))
def test_numbers_compare_as_numbers(number):
    assert canonical(f" {number}.0 ") == canonical(number) == str(number)


MAP = """name: st_mary
vocabulary: nih14
image_column: file
findings: {ERGUSS: Effusion}
values: {positive: [yes, 1], negative: [no, 0]}
"""


def test_a_map_file_reads_yes_and_no_as_text(tmp_path):
    (tmp_path / "m.yaml").write_text(MAP + "patient_column: null\n")
    read = load_label_map(tmp_path / "m.yaml")
    assert read.values.positive == ("yes", "1")
    assert read.patient_column is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MAP + "uncertian: ones\n", r"m\.yaml, line 6: unknown key 'uncertian'\. Did you mean 'uncertain'\?"),
        (MAP.replace("positive", "positiv"), r"line 5: unknown key 'values\.positiv'\. Did you mean 'positive'\?"),
        (MAP.replace("image_column: file\n", ""), "the key 'image_column' is missing"),
        (MAP + "uncertain: twos\n", "line 6: uncertain: "),
        (MAP.replace("[no, 0]", "[no, 1.0]"), "'1' is both positive and negative"),
        (MAP.replace("findings: {ERGUSS: Effusion}\n", ""), "give either 'findings' or 'delimited'"),
        (MAP + "image_key: [\n", "line 7: not valid YAML"),
        ("- a\n", "made of 'key: value' lines"),
    ],
)
def test_a_wrong_map_file_is_named_with_line_and_key(tmp_path, text, message):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_label_map(tmp_path / "m.yaml")


def test_a_missing_map_file_lists_those_of_the_package(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read.*nih"):
        load_label_map(tmp_path / "none.yaml")


def test_columns_named_like_findings_are_found():
    nih = load_vocabulary("nih14")
    found = infer_label_map(table("File,EFFUSION,pleural_thickening,No_Finding,sex,comment a,1,0,0,0,fine"), nih)
    assert found.findings == {
        "EFFUSION": "Effusion",
        "pleural_thickening": "Pleural_Thickening",
        "No_Finding": "No Finding",
    }
    assert (found.image_column, found.image_key) == ("File", "filename")
    assert infer_label_map(table("SOPInstanceUID,Effusion 1.2,1"), nih).image_key == "sop_instance_uid"


def test_nih_columns_are_read_by_default():
    nih = load_vocabulary("nih14")
    rows = pd.DataFrame(
        [["a.dcm", "Pleural Thickening|Mass", "7"]], columns=["Image Index", "Finding Labels", "Patient ID"]
    )
    labels = harmonise(rows, infer_label_map(rows, nih), nih)
    assert [f for f, y in zip(nih.findings, labels.labels[0], strict=True) if y == 1] == ["Mass", "Pleural_Thickening"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            "picture,Effusion a,1",
            {},
            r"no column 'Image Index' \(it has: picture, Effusion\)\. Name it with --image-column",
        ),
        (
            "file,Effusion,Cardiomegalie a,1,0",
            {},
            r"'Cardiomegalie' \(did you mean 'Cardiomegaly'\?\) looks like a finding",
        ),
        ("file,Effusion,Fracture a,1,0", {}, "--ignore-column 'Fracture'"),
        ("file,Effusion,Fracture a,1,TRUE b,0,No", {}, "--ignore-column 'Fracture'"),
        ("file,comment a,fine", {}, "no column is named like a finding.*--label-map"),
        ("file,Effusion a,1", {"ignore_columns": ["Fracture"]}, "--ignore-column Fracture: no such column"),
        ("file,Effusion a,1", {"image_column": "image"}, "no column 'image'"),
    ],
)
def test_what_cannot_be_inferred_is_asked_for(rows, options, message):
    with pytest.raises(UserError, match=message):
        infer_label_map(table(rows), load_vocabulary("nih14"), **options)


def test_a_column_may_be_left_out_knowingly():
    rows = table("file,Effusion,Fracture a,1,0")
    assert infer_label_map(rows, load_vocabulary("nih14"), ignore_columns=["Fracture"]).findings == {
        "Effusion": "Effusion"
    }
