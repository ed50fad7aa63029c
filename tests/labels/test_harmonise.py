"""Label tables: what becomes of each value, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.errors import UserError
from nc_medfl.labels import LabelMap, Named, Vocabulary, harmonise, infer_label_map, load_label_map, load_vocabulary
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


def test_listed_names_may_mean_two_findings_or_leave_the_rest_open():
    listed = LabelMap.model_validate(
        {
            "name": "m",
            "vocabulary": "two",
            "image_column": "file",
            "delimited": {
                "column": "says",
                "names": {"both": ["Effusion", "Mass"], "tumour": "Mass"},
                "normal": "clear",
                "unstated": ["as before"],
            },
            "left_out": {"scoliosis": "not wanted", "pacemaker": "no disease"},
            "beside_no_finding": ["pacemaker"],
        }
    )
    cells = ["both", "as before", "as before|tumour", "Scoliosis", "pacemaker", "clear", "clear|tumour"]
    labels = harmonise(pd.DataFrame([[c, c] for c in cells], columns=["file", "says"]), listed, TWO)
    same(labels.labels, [[1, 1], [NAN, NAN], [NAN, 1], [0, 0], [0, 0], [0, 0], [0, 1]])
    same(labels.no_finding, [0, NAN, 0, 0, 1, 1, 0])
    assert labels.contradictory == 1


def test_a_value_that_may_be_a_name_is_not_quoted():
    # The wrong column was named as a finding.
    rows = table("file,eff,tumour a,DOE^JOHN,0 b,ROE^JANE,0")
    with pytest.raises(
        UserError, match=r"column 'eff' holds a text of 8 characters \(row 2\), .*label map 'm'"
    ) as caught:
        harmonise(rows, wide(), TWO)
    assert "DOE" not in str(caught.value)
    listed = load_label_map("nih")
    rows = pd.DataFrame([["x.png", "DOE^JOHN", "1"]], columns=["Image Index", "Finding Labels", "Patient ID"])
    with pytest.raises(UserError, match="label map 'nih' doesn't know: a text of 8") as caught:
        harmonise(rows, listed, load_vocabulary("nih14"))
    assert "DOE" not in str(caught.value)


def test_equal_rows_of_one_image_are_merged():
    labels = harmonise(table("file,eff,tumour a,1, a,1, b,0,0"), wide(), TWO)
    assert (labels.keys, labels.merged, labels.rows) == (("a", "b"), 1, (0, 2))
    assert labels.disagreeing == 0


def test_rows_of_one_image_tell_together_what_they_tell_alike_and_nothing_where_they_disagree():
    # a: 1 against 0 is unknown; 0 beside a blank is 0.  b: uncertain against 1 is unknown, whatever the policy.
    # c: a third row doesn't settle it.  d: one row only.
    rows = table("file,eff,tumour a,1, a,0,0 b,-1,1 b,1,1 c,1,0 c,0,0 c,1,0 d,-1,0")
    labels = harmonise(rows, wide(uncertain="ones"), TWO)
    same(labels.labels, [[NAN, 0], [NAN, 1], [NAN, 0], [1, 0]])
    same(labels.no_finding, [NAN, 0, NAN, 0])
    assert (labels.merged, labels.disagreeing, labels.patient_conflicts) == (4, 3, 0)
    assert labels.raw["Effusion"] == ("1|0", "-1|1", "1|0", "-1")


def test_rows_of_one_image_that_name_two_patients_leave_it_without_one():
    rows = table("file,pid,eff,tumour a,7,1,0 a,8,1,0 b,9,0,0 b,9,0,0")
    labels = harmonise(rows, wide(patient_column="pid"), TWO)
    assert (labels.patients, labels.patient_conflicts, labels.disagreeing) == (("", "9"), 1, 0)


def test_entries_found_to_be_about_one_image_are_merged_by_the_same_rule():
    labels = harmonise(table("file,eff,tumour a,1, a.dcm,0,1 b,0,0"), wide(), TWO).merged_with([(0, 1)])
    same(labels.labels, [[NAN, 1], [0, 1], [0, 0]])
    assert (labels.merged, labels.disagreeing) == (1, 1)


@given(st.lists(st.tuples(*[st.sampled_from(["1", "0", "-1", ""])] * 2), min_size=2, max_size=4), st.randoms())
def test_the_order_of_rows_of_one_image_does_not_matter(cells, random):
    shuffled = random.sample(cells, len(cells))
    first, second = (
        harmonise(pd.DataFrame([["a", *row] for row in rows], columns=["file", "eff", "tumour"]), wide(), TWO)
        for rows in (cells, shuffled)
    )
    same(first.labels, second.labels)


def test_policies_may_differ_by_finding():
    policies = {"uncertain": {"Effusion": "ones", "default": "zeros"}, "blank": {"Mass": "negative"}}
    labels = harmonise(table("file,eff,tumour a,-1,-1 b,,"), wide(**policies), TWO)
    same(labels.labels, [[1, 0], [NAN, 0]])


def test_policies_of_the_command_line_override_the_map():
    rows = table("file,eff,tumour a,-1,-1 b,,")
    own = wide(uncertain={"Effusion": "ones", "default": "zeros"})
    same(harmonise(rows, own.with_policies(["Mass=ones"], ["Effusion=negative"]), TWO).labels, [[1, 1], [0, NAN]])
    # One policy for all takes the map's own exceptions back.
    same(harmonise(rows, own.with_policies(["ignore"], []), TWO).labels, [[NAN, NAN], [NAN, NAN]])
    for wrong in ("twos", "Mass=", "=ones", "ones=Mass"):
        with pytest.raises(UserError, match=r"--uncertain .*there are ignore, zeros and ones"):
            own.with_policies([wrong], [])
    with pytest.raises(UserError, match=r"'uncertain' speaks of .*'Efusion' \(did you mean 'Effusion'\?\)"):
        harmonise(rows, own.with_policies(["Efusion=ones"], []), TWO)


def test_a_column_of_one_of_two_findings_rules_both_out_and_tells_none():
    either = wide(findings={"normal": "No Finding"}, one_of={"lump": ["Effusion", "Mass"]})
    labels = harmonise(table("file,lump,normal a,0, b,1, c,,"), either, TWO)
    same(labels.labels, [[0, 0], [NAN, NAN], [NAN, NAN]])
    # b: something is there, though not told which.
    same(labels.no_finding, [1, 0, NAN])


def test_what_a_map_leaves_out_is_still_a_finding():
    leaving = wide(left_out={"rib": "not wanted", "tube": "no disease"}, beside_no_finding=["tube"])
    labels = harmonise(table("file,eff,tumour,rib,tube a,0,0,1,0 b,0,0,0,1 c,0,0,0,0"), leaving, TWO)
    same(labels.no_finding, [0, 1, 1])


def test_a_finding_that_the_source_allows_beside_no_finding_is_no_contradiction():
    beside = wide(findings={"eff": "Effusion", "tumour": "Mass", "normal": "No Finding"}, beside_no_finding=["Mass"])
    labels = harmonise(table("file,eff,tumour,normal a,0,1,1 b,1,0,1"), beside, TWO)
    same(labels.no_finding, [1, 0])
    assert labels.contradictory == 1


def test_an_optional_column_may_be_missing():
    same(harmonise(table("file,eff a,0"), wide(optional=["tumour"]), TWO).labels, [[0, NAN]])


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
        (MAP.replace("positive", "positiv"), r"line 5: unknown key 'values\.positiv'\. Did you mean 'values\.pos"),
        (MAP.replace("image_column: file\n", ""), "the key 'image_column' is missing"),
        (MAP + "uncertain: twos\n", "line 6: uncertain: "),
        (MAP.replace("[no, 0]", "[no, 1.0]"), "'1' is both positive and negative"),
        (MAP.replace("findings: {ERGUSS: Effusion}\n", ""), "give either 'findings' or 'delimited'"),
        (MAP + "image_key: [\n", "line 7: not valid YAML"),
        ("- a\n", "line 1: expected 'key: value' lines"),
    ],
)
def test_a_wrong_map_file_is_named_with_line_and_key(tmp_path, text, message):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_label_map(tmp_path / "m.yaml")


def test_a_missing_map_file_lists_those_of_the_package(tmp_path):
    with pytest.raises(UserError, match=r"no such label map\. .*nih"):
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


@pytest.mark.parametrize("yes", ["True", "TRUE", "yes", "Y", "Positive", "pos", "1.0"])
@pytest.mark.parametrize("no", ["False", "no", "N", "negative", "Neg", "0"])
def test_words_for_yes_and_no_are_read_without_a_map(yes, no):
    rows = table(f"file,Effusion,Mass a,{yes},{no} b,{no},-1 c,,{yes}")
    labels = harmonise(rows, infer_label_map(rows, TWO), TWO).labels
    np.testing.assert_array_equal(labels, [[1, 0], [0, NAN], [NAN, 1]])


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
        ("file,Effusion a,1", {"ignore": ("Fracture",)}, "--ignore-column Fracture: no such column"),
        ("file,Effusion a,1", {"patient": "pid"}, "--patient-column pid: no such column"),
        ("file,Effusion a,1", {"image": "image"}, "no column 'image'"),
        ("file,Effusion a,1", {"labels": ("Efusion",)}, "--label-columns Efusion: no column 'Efusion'"),
        ("file,b1 a,1", {"labels": ("b1=Efusion",)}, r"'Efusion' \(did you mean 'Effusion'\?\) is no finding"),
        ("file,b1,b2 a,1,0", {"labels": ("b1", "b2")}, "'b1' is no finding .*COLUMN=FINDING"),
    ],
)
def test_what_cannot_be_inferred_is_asked_for(rows, options, message):
    with pytest.raises(UserError, match=message):
        infer_label_map(table(rows), load_vocabulary("nih14"), named=Named(**options))


def test_a_column_may_be_left_out_knowingly():
    rows = table("file,Effusion,Fracture a,1,0")
    found = infer_label_map(rows, load_vocabulary("nih14"), named=Named(ignore=("Fracture",)))
    assert found.findings == {"Effusion": "Effusion"}


def test_columns_may_be_named_on_the_command_line():
    nih = load_vocabulary("nih14")
    rows = table("bild,pid,erguss,mass,f9 a,7,1,0,1")
    named = Named(image="bild", patient="pid", labels=("erguss=Effusion", "mass"), key="accession")
    found = infer_label_map(rows, nih, named=named)
    assert found.findings == {"erguss": "Effusion", "mass": "Mass"}
    assert (found.image_column, found.image_key, found.patient_column) == ("bild", "accession", "pid")
    # One column that is no finding's lists them.
    rows = pd.DataFrame([["a", "Mass|Effusion"]], columns=["file", "befund"])
    labels = harmonise(rows, infer_label_map(rows, nih, named=Named(labels=("befund",))), nih)
    assert [f for f, y in zip(nih.findings, labels.labels[0], strict=True) if y == 1] == ["Effusion", "Mass"]


@pytest.mark.parametrize(
    ("column", "patient"),
    [("Patient ID", "Patient ID"), ("PATIENT ID", "PATIENT ID"), ("PatientID", None), ("patient", None)],
)
def test_the_patient_is_taken_from_the_table_only_by_nihs_own_name(column, patient):
    rows = pd.DataFrame([["a", "1", "7"]], columns=["file", "Effusion", column])
    assert infer_label_map(rows, load_vocabulary("nih14")).patient_column == patient


@pytest.mark.parametrize(
    ("column", "key"),
    [("AccessionNumber", "accession"), ("SOP Instance UID", "sop_instance_uid"), ("DICOM", "filename")],
)
def test_the_image_column_says_by_its_name_what_it_holds(column, key):
    rows = pd.DataFrame([["a", "1"]], columns=[column, "Effusion"])
    assert infer_label_map(rows, load_vocabulary("nih14")).image_key == key


def test_identifiers_that_were_taken_for_numbers_are_whole_again():
    rows = pd.DataFrame(
        [["a", "7.0", "1"], ["a", "7", "1"], ["b", "007", "1"]], columns=["file", "Patient ID", "Effusion"]
    )
    nih = load_vocabulary("nih14")
    labels = harmonise(rows, infer_label_map(rows, nih), nih)
    assert (labels.patients, labels.patient_conflicts) == (("7", "007"), 0)
    rows = pd.DataFrame([["3001.0", "1"], ["3002.50", "0"]], columns=["Accession", "Effusion"])
    assert harmonise(rows, infer_label_map(rows, nih), nih).keys == ("3001", "3002.50")


def test_a_table_without_a_header_is_not_quoted_and_one_of_thousands_of_columns_not_told_whole():
    nih = load_vocabulary("nih14")
    with pytest.raises(UserError, match="it has 3 columns whose names look like values; is its header missing"):
        infer_label_map(pd.DataFrame([["x", "y", "1"]], columns=["00017", "Doe^Jane", "0"]), nih)
    wide = pd.DataFrame([["x"] * 5000], columns=[f"c{number}" for number in range(5000)])
    with pytest.raises(UserError, match="c29 and 4970 more") as told:
        infer_label_map(wide, nih)
    assert len(str(told.value)) < 500
