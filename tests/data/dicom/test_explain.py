"""``--explain``: every argument gets its line, and a rejected image its numbers all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from nc_medfl.data.dicom import OUTCOMES
from nc_medfl.data.dicom.explain import explain_file

MARK = "Zq7xMarker"


def explain(*files: str) -> tuple[list[dict], subprocess.CompletedProcess[str]]:
    command = [sys.executable, "-m", "nc_medfl.cli.main", "prepare", "--explain", "--json", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()], done


@pytest.mark.parametrize(
    ("elements", "outcome"),
    [
        ({}, "ok"),
        ({"Modality": "MR"}, "modality"),
        ({"BodyPartExamined": "SKULL"}, "body_part"),
        ({"PatientID": ""}, "no_patient_id"),
        ({"BurnedInAnnotation": "YES"}, "burned_in"),
    ],
)
def test_a_decodable_image_has_its_numbers_whatever_policy_says(tmp_path, make_dicom, elements, outcome):
    # Levels 0..79 in equal number, window from 0 to 79 linear exact: x / 80.
    levels = np.tile(np.arange(80, dtype=np.uint16), (70, 1))
    window = {"WindowCenter": "40", "WindowWidth": "80", "VOILUTFunction": "LINEAR_EXACT"}
    found = explain_file(make_dicom(tmp_path / "x", levels, **window, **elements))
    assert found.outcome == outcome
    assert (found.rows, found.cols) == (70, 80)
    assert found.mean == pytest.approx(39.5 / 80, abs=1e-6)
    assert found.std == pytest.approx(np.arange(80).std() / 80, abs=1e-6)


def test_a_small_image_is_told_as_small_and_shown_all_the_same(tmp_path, make_dicom):
    found = explain_file(make_dicom(tmp_path / "x", np.arange(63 * 80, dtype=np.uint16).reshape(63, 80)))
    assert found.outcome == "too_small"
    assert found.mean == pytest.approx(0.5, abs=1e-3)


def test_the_first_reason_is_the_outcome_and_all_of_them_are_told(tmp_path, make_dicom, picture):
    found = explain_file(make_dicom(tmp_path / "x", picture, Modality="CT", BodyPartExamined="HEAD", PatientID=""))
    assert found.outcome == "modality"
    told = " ".join(found.decisions)
    assert "no_patient_id" in told
    assert "body part other" in told


def test_a_constant_image_has_its_size_and_no_invented_numbers(tmp_path, make_dicom):
    found = explain_file(make_dicom(tmp_path / "x", np.full((70, 80), 7, dtype=np.uint16)))
    assert found.outcome == "constant_image"
    assert found.to_json("x")["rows"] == 70
    assert found.mean is None


def test_every_argument_has_its_line_in_order_and_as_typed(tmp_path, make_dicom, picture):
    make_dicom(tmp_path / "film.dcm", picture)
    (tmp_path / "letter.txt").write_text("dear colleague\n" * 50)
    (tmp_path / "nothing").touch()
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.dcm")
    make_dicom(tmp_path / "x", picture).rename(odd)
    relative = f"{tmp_path}/../{tmp_path.name}/film.dcm"
    files = [relative, str(tmp_path / "letter.txt"), str(tmp_path / "nothing"), odd, str(tmp_path), relative]
    lines, done = explain(*files, str(tmp_path / "absent"))
    assert [line["file"] for line in lines] == [*files, str(tmp_path / "absent")]
    assert [line["outcome"] for line in lines[:4]] == ["ok", "not_dicom", "empty_file", "ok"]
    assert all(line["outcome"] in OUTCOMES and line["decisions"] for line in lines)
    assert done.returncode == 2  # two arguments are no files
    assert "Traceback" not in done.stderr


def test_no_text_of_a_header_is_told(tmp_path, make_dicom, picture):
    texts = {
        **dict.fromkeys(("PatientID", "PatientName", "AccessionNumber", "StudyDescription", "ViewPosition"), MARK),
        **{"BodyPartExamined": MARK, "Modality": MARK[:16], "SOPInstanceUID": "1.2.3.4567", "VOILUTFunction": MARK},
    }
    path = make_dicom(tmp_path / "x", picture, **texts, WindowCenter="2000", WindowWidth="3000")
    told = json.dumps(explain_file(path).to_json("x"))
    assert MARK.lower() not in told.lower()
    assert "1.2.3.4567" not in told


def test_without_a_file_it_says_what_to_give():
    lines, done = explain()
    assert lines == []
    assert done.returncode == 2
    assert "--explain" in done.stderr
