"""What a map does to a table, told in counts."""

from __future__ import annotations

import pandas as pd

from nc_medfl.labels import LabelMap, Vocabulary, preview, read_states, resolve
from nc_medfl.labels.preview import conflicts_told, silence_told

THREE = Vocabulary("three", ("Effusion", "Mass", "Edema"))


def looked_at(rows: pd.DataFrame, **changes):
    base = {"name": "m", "vocabulary": "three", "image_column": "file", "patient_column": "pid"}
    label_map = LabelMap.model_validate({**base, **changes})
    reading = read_states(rows, label_map, THREE)
    return preview(rows, label_map, THREE, resolve(rows, label_map, THREE, reading), reading.strange)


def wide_table() -> pd.DataFrame:
    # Rows 0 and 1 are of one image and disagree in the effusion; row 3 says normal and effusion; row 4 repeats row 3.
    columns = ["file", "pid", "left", "right", "lump", "normal", "rib", "note"]
    rows = [
        ["a", "1", "1", "0", "-1", "0", "1", "x"],
        ["a", "1", "0", "0", "-1", "0", "1", "y"],
        ["b", "2", "", "0", "", "", "0", ""],
        ["c", "3", "0", "1", "0", "1", "1", ""],
        ["c", "3", "0", "1", "0", "1", "1", ""],
        ["d", "4", "2", "0", "0", "", "", ""],
        ["e", "5", "0", "0", "0", "1", "", ""],
        ["e", "6", "0", "0", "0", "1", "", ""],
    ]
    return pd.DataFrame(rows, columns=columns)


def test_findings_are_counted_over_images_by_what_the_table_says():
    found = looked_at(
        wide_table(),
        findings={"left": "Effusion", "right": "Effusion", "lump": "Mass", "normal": "No Finding"},
        left_out={"rib": "not wanted"},
    )
    by_name = {f.finding: f for f in found.findings}
    # Effusion, by image: a conflict, b blank, c 1, d unknown (a value without meaning), e 0.
    effusion = by_name["Effusion"]
    assert (effusion.how, effusion.sources) == ("merged", ("left", "right"))
    assert (effusion.positive, effusion.negative, effusion.uncertain) == (1, 1, 0)
    assert (effusion.blank, effusion.unknown, effusion.conflict) == (1, 1, 1)
    mass = by_name["Mass"]
    assert (mass.how, mass.positive, mass.negative, mass.uncertain, mass.blank) == ("kept", 0, 3, 1, 1)
    assert (by_name["Edema"].how, by_name["Edema"].unknown) == ("unknown", 5)
    assert (found.rows, found.images, found.repeated_rows) == (8, 5, 3)
    assert (found.disagreeing, found.contradictory, found.patient_conflicts) == (1, 1, 1)
    assert found.left_out == (("rib", "not wanted", 4),)
    assert found.unmapped_columns == ("note",)
    assert found.unmapped_values == (("left", "2", 1),)


def test_what_is_told_names_no_image_and_no_patient():
    rows = wide_table().replace({"2": "MARKER 77", "a": "MARKERfile", "1": "1"})
    rows["pid"] = "MARKERpatient"
    found = looked_at(rows, findings={"left": "Effusion", "lump": "Mass"})
    told = [str(found.to_json()), *conflicts_told(found, "t.csv"), *silence_told(found, "t.csv")]
    assert "MARKER" not in "".join(told)
    assert found.unmapped_values == (("left", "", 1),)


def test_frequent_names_that_a_list_leaves_out_are_told_and_rare_ones_added_up():
    cells = ["scoliosis"] * 6 + ["DOE^JOHN", "effusion|kyphosis"]
    rows = pd.DataFrame([[str(n), "1", cell] for n, cell in enumerate(cells)], columns=["file", "pid", "says"])
    listed = {"column": "says", "names": {"effusion": "Effusion"}, "others": "leave_out"}
    found = looked_at(rows, delimited=listed)
    assert found.left_out == (
        ("scoliosis", "no finding of the vocabulary", 6),
        ("(rare names)", "no finding of the vocabulary", 2),
    )


def test_silence_and_conflicts_are_told_in_lines():
    found = looked_at(wide_table(), findings={"left": "Effusion", "normal": "No Finding"}, values={"unknown": ["2"]})
    (silent,) = silence_told(found, "t.csv")
    assert "no column for 2 of 3 findings, which are unknown here: Mass, Edema." in silent
    lines = " ".join(conflicts_told(found, "t.csv"))
    assert "3 rows of t.csv repeat another" in lines
    assert "disagree about 1 images" in lines
    assert "name different patients for 1 images" in lines
