"""Synthetic hospitals: whole on disk, different from one another, the same again from the same seed."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml

from nc_medfl.data.dicom.reader import read_radiograph
from nc_medfl.data.synthetic import DEFAULT_HOSPITALS, FINDINGS, Hospital, TableStyle, make_hospitals, plan_hospital
from nc_medfl.errors import UserError

PATIENTS = 9


def content(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hospitals")
    make_hospitals(out, patients_per_hospital=PATIENTS, seed=3, size=64, workers=1)
    return out


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_number_of_workers_changes_no_byte(made: Path, tmp_path: Path):
    calls = []
    folders = make_hospitals(
        tmp_path,
        patients_per_hospital=PATIENTS,
        seed=3,
        size=64,
        workers=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert content(tmp_path) == content(made)
    assert [folder.name for folder in folders] == [hospital.name for hospital in DEFAULT_HOSPITALS]
    assert calls[-1][0] == calls[-1][1] == len(list(tmp_path.rglob("*.dcm")))
    assert calls == sorted(calls)


def test_making_again_leaves_nothing_of_before(made: Path, tmp_path: Path):
    for patients in (4, 2):
        make_hospitals(tmp_path, patients_per_hospital=patients, seed=3, size=48, workers=1)
    for hospital in DEFAULT_HOSPITALS:
        folder = tmp_path / hospital.name
        assert len(list((folder / "dicom").iterdir())) == len(rows_of(folder))


def test_every_image_has_a_label_and_every_label_an_image(made: Path):
    for hospital in DEFAULT_HOSPITALS:
        folder = made / hospital.name
        named = [row[hospital.table.image_column] for row in rows_of(folder)]
        files = list((folder / "dicom").glob("*.dcm"))
        if hospital.table.image_key == "filename":
            present = [path.name for path in files]
        else:
            present = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in files]
        assert sorted(named) == sorted(present)


def meaning(row: dict[str, str], spec: dict) -> dict[str, str]:
    """What a row says, by the label map alone: finding -> positive, negative, uncertain, unknown."""
    if "delimited" in spec:
        rule = spec["delimited"]
        cell = row[rule["column"]]
        shown = [] if cell == rule["normal"] else [rule["names"][name] for name in cell.split(rule["separator"])]
        return {name: "positive" if name in shown else "negative" for name in FINDINGS}
    code = {text: state for state, texts in spec["values"].items() for text in texts}
    told = {finding: code[row[column]] for column, finding in spec["findings"].items()}
    return {name: told.get(name, "unknown") for name in FINDINGS}


def test_tables_read_through_their_maps_say_what_was_drawn(made: Path):
    uncertain = 0
    for hospital in DEFAULT_HOSPITALS:
        spec = yaml.safe_load((made / hospital.name / "label_map.yaml").read_text(encoding="utf-8"))
        for row, exposure in zip(rows_of(made / hospital.name), plan_hospital(hospital, PATIENTS, 3), strict=True):
            said = meaning(row, spec)
            for finding in FINDINGS:
                truth = "positive" if finding in exposure.findings else "negative"
                unread = finding not in hospital.table.names
                assert said[finding] == "unknown" if unread else said[finding] in (truth, "uncertain", "unknown")
            uncertain += sum(state == "uncertain" for state in said.values())
    assert uncertain > 0


def test_exactly_one_hospital_does_not_read_for_one_finding():
    unread = [set(FINDINGS) - set(hospital.table.names) for hospital in DEFAULT_HOSPITALS]
    assert sorted(map(len, unread)) == [0, 0, 0, 1]


def test_a_label_map_names_every_column(made: Path):
    for hospital in DEFAULT_HOSPITALS:
        spec = yaml.safe_load((made / hospital.name / "label_map.yaml").read_text(encoding="utf-8"))
        known = {spec["image_column"], *spec["ignore_columns"], *spec.get("findings", {})}
        known |= {spec["delimited"]["column"]} if "delimited" in spec else set()
        known |= {spec["patient_column"]} if spec["patient_column"] else set()
        assert set(rows_of(made / hospital.name)[0]) == known


def test_the_machines_differ_and_the_reader_undoes_that(made: Path):
    syntaxes, polarities = set(), set()
    for hospital in DEFAULT_HOSPITALS:
        films = [read_radiograph(path) for path in sorted((made / hospital.name / "dicom").glob("*.dcm"))]
        syntaxes |= {film.facts.transfer_syntax for film in films}
        polarities |= {film.facts.photometric for film in films}
        mean = np.mean([film.pixels for film in films], axis=0)
        high, wide = mean.shape
        assert films[0].aspect == pytest.approx(wide / high, rel=0.02)
        lung = mean[int(0.35 * high) : int(0.5 * high), int(0.24 * wide) : int(0.32 * wide)]
        spine = mean[int(0.78 * high) : int(0.9 * high), int(0.48 * wide) : int(0.52 * wide)]
        assert lung.mean() + 0.2 < spine.mean(), hospital.name
    assert len(syntaxes) == 4
    assert polarities == {"MONOCHROME1", "MONOCHROME2"}


def test_films_of_a_patient_agree_on_the_patient(made: Path):
    for hospital in DEFAULT_HOSPITALS:
        people: dict[str, set] = {}
        for path in (made / hospital.name / "dicom").glob("*.dcm"):
            film = pydicom.dcmread(path, stop_before_pixels=True)
            people.setdefault(film.PatientID, set()).add(
                (film.PatientSex, film.PatientBirthDate, str(film.PatientName))
            )
            # Born on the first of January, so the age is the difference of the years.
            assert int(film.PatientAge[:3]) == int(film.StudyDate[:4]) - int(film.PatientBirthDate[:4])
        assert len(people) == PATIENTS
        assert {len(facts) for facts in people.values()} == {1}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_thousand_films_hold_enough_positives_of_every_finding(seed: int):
    # A fifth of the patients in the test split and 20 positives there ask for clearly more than 100 in all.
    known = dict.fromkeys(FINDINGS, 0)
    films = 0
    for hospital in DEFAULT_HOSPITALS:
        plan = plan_hospital(hospital, 250, seed)
        films += len(plan)
        for exposure in plan:
            assert not set(exposure.findings) & set(hospital.missing)
            for finding in set(exposure.findings) & set(hospital.table.names):
                known[finding] += 1
    assert 1_850 < films < 2_150
    assert min(known.values()) >= 130


def test_hospitals_see_different_diseases():
    for hospital in DEFAULT_HOSPITALS:
        for finding, least in hospital.emphasis.items():
            shares = {
                other.name: np.mean([finding in e.findings for e in plan_hospital(other, 250, 0)])
                for other in DEFAULT_HOSPITALS
            }
            assert shares[hospital.name] == max(shares.values())
            assert shares[hospital.name] > 0.75 * least


def test_a_folder_of_another_origin_is_left_alone(tmp_path: Path):
    foreign = tmp_path / "st_mary" / "dicom" / "precious.dcm"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"keep")
    with pytest.raises(UserError, match="another origin"):
        make_hospitals(tmp_path, patients_per_hospital=1, workers=1)
    assert foreign.read_bytes() == b"keep"


PLAIN = TableStyle("image", "filename", {name: name for name in FINDINGS})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Hospital("St Mary", PLAIN), "lower case"),
        (lambda: Hospital("a", PLAIN, images_per_patient=(0, 2)), "images_per_patient"),
        (lambda: TableStyle("image", "filename", {"Fracture": "f"}), "unknown finding 'Fracture'"),
        (lambda: dataclasses.replace(PLAIN, names={"Mass": "Masse"}, delimited="Befund"), "each of the 14"),
        (lambda: make_hospitals(Path("x"), hospitals=[Hospital("a", PLAIN)] * 2), "'a' stands twice"),
        (lambda: make_hospitals(Path("x"), patients_per_hospital=0), "too few"),
        (lambda: make_hospitals(Path("x"), workers=0), "1 or more"),
    ],
)
def test_mistakes_are_told_in_one_line(call, message: str):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
