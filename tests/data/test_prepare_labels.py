"""Labels through the whole preparation: whose row is about which image, and what the store says of it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from nc_medfl.data.prepare import prepare
from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.store import open_store
from nc_medfl.errors import UserError

CHEXPERT_COLUMNS = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


@pytest.fixture
def archive(tmp_path, make_dicom, picture) -> Path:
    """Six DICOM files without a PatientID; two of each accession number."""
    for number in range(6):
        make_dicom(
            tmp_path / "images" / f"im{number}.dcm",
            np.roll(picture, number, axis=0) + np.uint16(number),
            PatientID="",
            AccessionNumber=f"ACC{number // 2}",
        )
    return tmp_path


def run(folder: Path, table: str, **changes):
    """Prepare, and give summary, manifest and ``prepare.json``."""
    (folder / "labels.csv").write_text(table)
    base = {"source": "dicom", "images": folder / "images", "labels": folder / "labels.csv", "out": folder / "store"}
    summary = prepare(PrepareSettings(**{**base, "size": 32, "workers": 0, **changes}))
    store = folder / "store"
    return summary, open_store(store).manifest, json.loads((store / "prepare.json").read_text())


def nih_rows(patients: str) -> str:
    lines = [f"im{n}.dcm,{'Effusion|Mass' if n % 2 else 'No Finding'},{p}" for n, p in enumerate(patients)]
    return "\n".join(["Image Index,Finding Labels,Patient ID", *lines]) + "\n"


def test_nihs_columns_are_read_by_default_and_its_patient_beats_the_headers(archive):
    summary, frame, _ = run(archive, nih_rows("aabbcc"))
    assert (summary.counts, summary.patients) == ({"ok": 6}, 3)
    assert (frame["label:Effusion"].sum(), frame["label:Mass"].sum(), frame["label:No Finding"].sum()) == (3, 3, 3)


def test_without_a_patient_column_a_header_without_patient_is_refused(archive):
    with pytest.raises(UserError, match=r"no image can be used .*no_patient_id 6"):
        run(archive, nih_rows("aabbcc").replace("Patient ID", "Visit"))


def test_columns_of_other_names_are_given_on_the_command_line(archive):
    table = "bild;wer;erguss;herz\n" + "".join(f"im{n};{n // 2};{n % 2};0\n" for n in range(6))
    summary, frame, _ = run(
        archive,
        table,
        image_column="bild",
        patient_column="wer",
        label_columns=("erguss=Effusion", "herz=Cardiomegaly"),
    )
    assert (summary.patients, frame["label:Effusion"].sum(), frame["label:Cardiomegaly"].sum()) == (3, 3, 0)
    (note,) = summary.notes
    assert "no column for 12 of 14 findings, which are unknown here: Atelectasis, " in note
    assert frame["label:Hernia"].isna().all()


def test_a_row_by_accession_is_about_every_image_of_the_examination(archive):
    table = "AccessionNumber,pid,Effusion\nACC0,x,1\nACC1,y,0\nACC9,z,1\n"
    summary, frame, info = run(archive, table, patient_column="pid")
    assert summary.counts == {"ok": 4, "no_label": 2}
    assert sorted(frame["label:Effusion"]) == [0, 0, 1, 1]
    assert summary.labels_without_image == 1
    assert (info["labels"]["rows_without_image"], info["labels"]["images_without_row"]) == (1, 2)


def test_contradictions_are_resolved_counted_and_kept_on_record(archive):
    # im0: No Finding and a finding.  im1: two rows that disagree in the effusion.  im2: two patients.
    table = (
        "file,pid,Effusion,Mass,No Finding\n"
        "im0.dcm,a,1,0,1\n"
        "im1.dcm,b,1,1,\nim1.dcm,b,0,1,\n"
        "im2.dcm,c,1,0,\nim2.dcm,d,1,0,\n"
        "im3.dcm,e,0,0,\nim3,e,0,1,\n"
        "im4.dcm,f,0,0,1\nim5.dcm,g,0,0,1\n"
    )
    summary, frame, info = run(archive, table, patient_column="pid")
    assert summary.counts == {"ok": 5, "no_patient_id": 1}
    # Known: im0 1, im4 0, im5 0, im3 0; im1 disagrees.  Mass: im0 0, im1 1, im4 0, im5 0; im3 disagrees.
    assert sorted(frame["label:Effusion"].dropna()) == [0, 0, 0, 1]
    assert sorted(frame["label:Mass"].dropna()) == [0, 0, 0, 1]
    assert (frame.loc[frame["label:Effusion"] == 1, "label:No Finding"] == 0).all()
    said = " ".join(summary.warnings)
    assert "1 images are labelled 'No Finding' and with a finding; the finding counts" in said
    assert "disagree about 2 images" in said
    assert "name different patients for 1 images" in said
    told = info["labels"]
    assert (told["contradictory"], told["disagreeing"], told["patient_conflicts"], told["repeated_rows"]) == (
        1,
        2,
        1,
        3,
    )
    assert told["rules"]


def test_zeros_that_a_spreadsheet_took_away_are_told(archive):
    for number in range(6):
        (archive / "images" / f"im{number}.dcm").rename(archive / "images" / f"000{number + 1}.dcm")
    numbers = "".join(f"{n + 1},p{n},1\n" for n in range(6))
    with pytest.raises(UserError, match="seem to have lost leading zeros"):
        run(archive, "file,pid,Effusion\n" + numbers, patient_column="pid")
    summary, _, _ = run(archive, "file,pid,Effusion\n0001,p0,1\n0002,p1,0\n" + numbers, patient_column="pid")
    assert summary.counts == {"ok": 2, "no_label": 4}
    assert any("seem to have lost leading zeros" in warning for warning in summary.warnings)


def test_policies_stand_on_record(archive):
    table = "file,pid,Effusion,Mass\n" + "".join(f"im{n},p{n},-1,\n" for n in range(6))
    summary, frame, info = run(archive, table, patient_column="pid", uncertain=("Effusion=ones",), blank=("negative",))
    assert summary.images == 6
    assert (frame["label:Effusion"] == 1).all()
    assert (frame["label:Mass"] == 0).all()
    assert info["settings"]["uncertain"] == {"default": "ignore", "Effusion": "ones"}
    assert info["settings"]["blank"] == "negative"


def test_hostile_keys_do_not_become_formulas(archive):
    table = "file,pid,Effusion\n" + "".join(f"im{n},p{n},1\n" for n in range(6))
    table += '"=HYPERLINK(""http://x"")",q,1\n@sum,q,0\n+1,q,0\n-1,q,1\n' + "a" * 4000 + ",q,1\n"
    summary, _, _ = run(archive, table, patient_column="pid")
    assert summary.labels_without_image == 5
    for path in (archive / "store").rglob("*.csv"):
        for line in path.read_text().splitlines()[1:]:
            assert not any(cell.lstrip('"').startswith(("=", "+", "-", "@")) for cell in line.split(","))


def test_chexperts_pictures_take_patient_view_sex_and_age_from_the_table(tmp_path, picture):
    rows = [CHEXPERT_COLUMNS]
    for number in range(6):
        name = f"train/patient{number // 2:05d}/study1/view{number % 2 + 1}_frontal"
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.roll(picture, number, axis=1))
        rows.append(f"CheXpert-v1.0-small/{name}.jpg,Female,{60 + number},Frontal,PA,,,,,,{number % 2},,,,,,,,")
    summary, frame, info = run(tmp_path, "\n".join(rows) + "\n", source="chexpert", vocabulary="chexpert13")
    assert (summary.counts, summary.patients) == ({"ok": 6}, 3)
    assert frame["label:Edema"].sum() == 3
    assert set(frame["view"]) == {"PA"}
    assert set(frame["sex"]) == {"F"}
    assert sorted(frame["age"]) == [60, 61, 62, 63, 64, 65]
    assert info["settings"]["label_map"] == "chexpert-chexpert13 1"


def test_any_pictures_and_any_table_make_a_store(tmp_path, picture):
    (tmp_path / "images").mkdir()
    for number in range(6):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.roll(picture, number, axis=1))
    table = "image,who,sex,age,Effusion\n" + "".join(f"{n}.png,w{n // 2},M,40,{n % 2}\n" for n in range(6))
    summary, frame, _ = run(tmp_path, table, source="folder", patient_column="who")
    assert (summary.counts, summary.patients, frame["label:Effusion"].sum()) == ({"ok": 6}, 3, 3)
    assert set(frame["sex"]) == {"M"}
