"""Preparing a folder of DICOM: what is kept, what is not, and that it is private, resumable and repeatable."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import resource
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from nc_medfl.data.prepare import prepare
from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.store import open_store
from nc_medfl.errors import UserError

SALT = b"0123456789abcdef"


@pytest.fixture
def hospital(tmp_path, make_dicom, picture) -> Path:
    """Twelve radiographs of six patients in two folders, labels by file name, and a salt."""
    rows = ["file,Effusion,Cardiomegaly,pleural thickening,age"]
    for number in range(12):
        name = f"{'a' if number % 2 else 'b'}/im{number:02d}.dcm"
        pixels = np.roll(picture, number, axis=0) + np.uint16(number)
        make_dicom(tmp_path / "images" / name, pixels, PatientID=f"SECRET-{number // 2}", PatientName="MARKER^NAME")
        rows.append(f"{name},{number % 2},{int(number < 6)},,50")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "salt").write_bytes(SALT)
    return tmp_path


def settings(hospital: Path, out: str = "store", **changes) -> PrepareSettings:
    base = {
        "source": "dicom",
        "images": hospital / "images",
        "labels": hospital / "labels.csv",
        "out": hospital / out,
        "salt_file": hospital / "salt",
        "size": 32,
        "workers": 0,
    }
    return PrepareSettings(**{**base, **changes})


def contents(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def public(store: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(store).items() if not name.startswith("site_private")}


def test_a_folder_becomes_a_store(hospital):
    summary = prepare(settings(hospital))
    store = open_store(hospital / "store")
    assert summary.counts == {"ok": 12}
    assert (summary.images, summary.patients) == (12, 6)
    assert summary.warnings == ()
    assert store.image(0).shape == (32, 32)
    assert store.image(0).std() > 10
    frame = store.manifest
    assert frame["patient_key"].nunique() == 6
    assert (frame.groupby("patient_key")["split"].nunique() == 1).all()
    assert set(frame["split"]) == {"train", "val", "test"}
    assert frame["label:Effusion"].sum() == 6
    # A blank is unknown, a finding without a column too, and No Finding can't be told then.
    assert frame["label:Pleural_Thickening"].isna().all()
    assert frame["label:Mass"].isna().all()
    present = (frame["label:Effusion"] == 1) | (frame["label:Cardiomegaly"] == 1)
    assert (frame.loc[present, "label:No Finding"] == 0).all()
    assert frame.loc[~present, "label:No Finding"].isna().all()
    assert (frame["age"] == 62).all()
    assert json.loads((hospital / "store" / "prepare.json").read_text())["counts"] == {"ok": 12}


def test_pixels_and_labels_are_of_the_same_image(hospital, make_dicom):
    # One bright and one dark half, told apart by the labels.
    rows = ["file,Effusion"]
    ramp = np.tile(np.linspace(0, 4000, 80, dtype=np.uint16), (80, 1))
    for number in range(6):
        pixels = ramp if number % 2 else ramp[:, ::-1]
        make_dicom(hospital / "two" / f"{number}.dcm", pixels + np.uint16(number), PatientID=str(number))
        rows.append(f"{number}.dcm,{number % 2}")
    (hospital / "two.csv").write_text("\n".join(rows))
    prepare(settings(hospital, images=hospital / "two", labels=hospital / "two.csv"))
    store = open_store(hospital / "store")
    rising = [float(store.image(i)[:, -1].mean()) > float(store.image(i)[:, 0].mean()) for i in range(6)]
    assert rising == (store.manifest["label:Effusion"] == 1).tolist()


def test_the_same_inputs_give_the_same_bytes_whatever_the_workers(hospital):
    prepare(settings(hospital, "one", workers=0))
    prepare(settings(hospital, "two", workers=2))
    assert contents(hospital / "one") == contents(hospital / "two")


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(hospital):
    def stop_half_way(done: int, total: int, _outcomes: object) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(settings(hospital), stop_half_way)
    assert not (hospital / "store" / "manifest.parquet").exists()
    with pytest.raises(UserError, match="half-prepared"):
        open_store(hospital / "store")
    summary = prepare(settings(hospital))
    assert summary.resumed >= 6
    prepare(settings(hospital, "undisturbed"))
    assert public(hospital / "store") == public(hospital / "undisturbed")


def test_a_store_that_lost_its_manifest_is_made_again(hospital):
    prepare(settings(hospital))
    before = contents(hospital / "store")
    (hospital / "store" / "manifest.parquet").unlink()
    prepare(settings(hospital))
    assert contents(hospital / "store") == before


def test_a_changed_size_does_not_use_work_done_at_another(hospital):
    with pytest.raises(KeyboardInterrupt):
        prepare(settings(hospital), lambda done, *_: (_ for _ in ()).throw(KeyboardInterrupt) if done else None)
    summary = prepare(settings(hospital, size=48))
    assert summary.resumed == 0
    assert open_store(hospital / "store").size == 48


def test_nothing_in_the_store_leads_back(hospital, make_dicom, picture):
    make_dicom(
        hospital / "images" / "MARKERfolder" / "MARKERfile", picture[::-1].copy(), Modality="CT", PatientID="SECRET-9"
    )
    summary = prepare(settings(hospital))
    assert summary.counts == {"ok": 12, "modality": 1}
    frame = pd.read_parquet(hospital / "store" / "manifest.parquet")
    texts = {**public(hospital / "store"), "decoded": frame.to_csv().encode()}
    uids = [row["sop_uid"] for row in private_sources(hospital) if row["sop_uid"]]
    assert len(uids) == 12
    for name, data in texts.items():
        for secret in ("SECRET", "MARKER", ".dcm", str(hospital), *uids):
            assert secret.encode() not in data, f"{secret} in {name}"
    assert (hospital / "store" / "site_private").stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in (hospital / "store" / "site_private").iterdir())


def private_sources(hospital: Path) -> list[dict[str, str]]:
    text = (hospital / "store" / "site_private" / "sources.csv").read_text()
    return list(csv.DictReader(io.StringIO(text)))


def test_site_private_leads_from_each_sample_to_its_file(hospital):
    prepare(settings(hospital))
    by_sample = {row["sample_id"]: Path(row["path"]) for row in private_sources(hospital)}
    frame = open_store(hospital / "store").manifest
    assert set(frame["sample_id"]) == set(by_sample)
    assert all(path.is_file() for path in by_sample.values())


def test_keys_depend_on_the_salt_and_splits_do_not(hospital):
    prepare(settings(hospital, "one"))
    (hospital / "salt").write_bytes(b"another secret of 16 bytes or more")
    prepare(settings(hospital, "two"))
    one, two = (open_store(hospital / name).manifest for name in ("one", "two"))
    assert not set(one["patient_key"]) & set(two["patient_key"])
    by_source = [frame.set_index("source_sha256")["split"].sort_index() for frame in (one, two)]
    pd.testing.assert_series_equal(*by_source)


def test_a_lost_salt_is_told_and_no_other_put_in_its_place(hospital):
    prepare(settings(hospital, salt_file=None))
    salt = hospital / "store" / "site_private" / "salt.bin"
    kept = salt.read_bytes()
    salt.unlink()
    with pytest.raises(UserError, match="Put it back from its backup, or give it as --salt-file"):
        prepare(settings(hospital, salt_file=None))
    assert not salt.exists()
    salt.write_bytes(kept)
    assert prepare(settings(hospital, salt_file=None)).unchanged
    salt.unlink()
    prepare(settings(hospital, salt_file=None, replace=True))
    assert salt.read_bytes() != kept


def test_the_hash_of_pixels_is_sha256_of_the_values_as_pydicom_gives_them(hospital):
    prepare(settings(hospital))
    sources = pd.read_csv(hospital / "store" / "site_private" / "sources.csv").set_index("sample_id")["path"]
    manifest = pd.read_parquet(hospital / "store" / "manifest.parquet").set_index("sample_id")["pixel_sha256"]
    for sample, digest in manifest.items():
        values = pydicom.dcmread(sources[sample]).pixel_array
        text = f"{values.shape[0]}x{values.shape[1]}:<u2:".encode()
        assert digest == hashlib.sha256(text + values.astype("<u2").tobytes()).hexdigest()


def test_without_a_salt_file_one_is_made_and_used_again(hospital):
    prepare(settings(hospital, salt_file=None))
    first = contents(hospital / "store")
    assert len(first["site_private/salt.bin"]) == 32
    prepare(settings(hospital, salt_file=None))
    assert contents(hospital / "store") == first


def test_each_kind_of_duplicate_has_its_own_outcome(hospital, make_dicom, picture):
    images = hospital / "images"
    uid = str(pydicom.dcmread(images / "a" / "im01.dcm").SOPInstanceUID)
    make_dicom(images / "z_uid.dcm", np.ascontiguousarray(np.flipud(picture)), SOPInstanceUID=uid)
    (images / "z_copy.dcm").write_bytes((images / "a" / "im01.dcm").read_bytes())
    pixels = np.roll(picture, 3, axis=0) + np.uint16(3)  # those of im03, under another patient and UID
    make_dicom(images / "z_same.dcm", pixels, PatientID="somebody")
    with (hospital / "labels.csv").open("a") as stream:
        stream.write("z_copy.dcm,1,0,,\nz_same.dcm,1,0,,\nz_uid.dcm,1,0,,\n")
    summary = prepare(settings(hospital))
    assert summary.counts == {"ok": 12, "duplicate_uid": 1, "duplicate_pixels": 1, "duplicate_image": 1}
    quarantine = pd.read_csv(hospital / "store" / "quarantine.csv")
    assert sorted(quarantine["outcome"]) == ["duplicate_image", "duplicate_pixels", "duplicate_uid"]
    assert list(quarantine.columns) == ["source_sha256", "outcome", "remedy"]


def test_an_image_without_a_label_and_a_label_without_an_image_are_counted_and_said(hospital):
    text = (hospital / "labels.csv").read_text().splitlines()
    text[1] = text[1].replace("im00", "im99")
    (hospital / "labels.csv").write_text("\n".join(text))
    summary = prepare(settings(hospital))
    assert summary.counts == {"ok": 11, "no_label": 1}
    assert summary.labels_without_image == 1
    assert len(summary.warnings) == 2
    listed = (hospital / "store" / "site_private" / "labels_without_image.csv").read_text()
    assert "im99" in listed


def test_labels_may_be_keyed_by_sop_instance_uid(hospital):
    import pydicom

    rows = ["SOPInstanceUID,Effusion"]
    for number, path in enumerate(sorted((hospital / "images").rglob("*.dcm"))):
        rows.append(f"{pydicom.dcmread(path).SOPInstanceUID},{number % 2}")
    (hospital / "labels.csv").write_text("\n".join(rows))
    assert prepare(settings(hospital)).counts == {"ok": 12}


def test_one_label_by_bare_name_cannot_be_about_two_images(hospital, make_dicom, picture):
    make_dicom(hospital / "images" / "c" / "im01.dcm", picture[:, ::-1].copy(), PatientID="other")
    text = (hospital / "labels.csv").read_text().replace("a/", "").replace("b/", "")
    (hospital / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=r"row 3 fits several different images"):
        prepare(settings(hospital))


def test_rows_that_name_one_image_in_two_ways_are_merged_and_where_they_disagree_nothing_is_known(hospital):
    # Row 3 says a/im01.dcm has an effusion.
    table = (hospital / "labels.csv").read_text()
    (hospital / "labels.csv").write_text(table + "a/im01,1,1,,50\n")
    assert "1 rows of labels.csv repeat another" in " ".join(prepare(settings(hospital)).warnings)
    (hospital / "labels.csv").write_text(table + "a/im01,0,1,,50\n")
    summary = prepare(settings(hospital, "other"))
    assert "Rows of labels.csv disagree about 1 images" in " ".join(summary.warnings)
    labels = open_store(hospital / "other").manifest[["label:Effusion", "label:Cardiomegaly"]]
    # Of twelve images six have an effusion and six haven't; of one of the six it is no longer known.
    assert labels["label:Effusion"].value_counts().to_dict() == {0.0: 6, 1.0: 5}
    assert labels["label:Effusion"].isna().sum() == 1
    assert labels["label:Cardiomegaly"].notna().all()


def test_a_broken_file_is_quarantined_with_the_others_kept(hospital):
    (hospital / "images" / "a" / "im01.dcm").write_bytes(b"")
    (hospital / "images" / "notes.txt").write_text("hello")
    assert prepare(settings(hospital, workers=1)).counts == {"ok": 11, "empty_file": 1, "not_dicom": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": "nowhere"}, "no such folder"),
        ({"images": "salt"}, "is a file"),
        ({"images": "void"}, "holds no files"),
        ({"labels": "nowhere.csv"}, "no such file"),
        ({"labels": "salt"}, "no rows"),
        ({"labels": "bare.csv"}, "no column 'Image Index'"),
        ({"labels": "other.csv"}, "none of its 1 images is among the 12 files"),
        ({"out": "images/store"}, "lies in the images folder"),
        ({"out": "void2"}, "holds other files and is no store"),
        ({"size": 4}, "--size 4"),
        ({"seed": -1}, "--seed -1"),
        ({"fractions": (0.9, 0.9, 0.1)}, "add up to 1"),
        ({"site": "St. Mary's"}, "--site"),
        ({"vocabulary": "nih15"}, "no vocabulary"),
        ({"salt_file": "short"}, "16 bytes or more"),
    ],
)
def test_bad_input_is_named(hospital, change, message):
    (hospital / "void").mkdir()
    (hospital / "void2").mkdir()
    (hospital / "void2" / "thesis.txt").write_text("all my work")
    (hospital / "short").write_bytes(b"short")
    (hospital / "bare.csv").write_text("picture,Effusion\n1,1\n")
    (hospital / "other.csv").write_text("file,Effusion\nelsewhere.dcm,1\n")
    paths = {k: hospital / v if k in ("images", "labels", "out", "salt_file") else v for k, v in change.items()}
    with pytest.raises(UserError, match=message):
        prepare(settings(hospital, **paths))
    assert (hospital / "void2" / "thesis.txt").read_text() == "all my work"


def test_an_unreadable_folder_is_an_error(hospital, monkeypatch):
    import os

    scandir = os.scandir

    def refuse(folder):
        if folder == hospital / "images":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    # Root, as in containers, reads everything; so the system's refusal is played.
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="cannot be read"):
        prepare(settings(hospital))


def test_no_usable_image_is_an_error_and_an_older_store_stands(hospital, make_dicom, picture):
    prepare(settings(hospital))
    before = public(hospital / "store")
    for path in (hospital / "images").rglob("*.dcm"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no image can be used .*empty_file 12.*earlier store .* stands as it was"):
        prepare(settings(hospital))
    assert public(hospital / "store") == before


def test_a_full_disk_is_an_error_and_the_run_goes_on_after_it(hospital):
    # A limit on the size of a file stands in for the disk: the small squares are kept, the shard of all is too big.
    soft, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 32 * 32, most))
    try:
        with pytest.raises(UserError, match=r"store: the preparation could not go on \(File too large\)"):
            prepare(settings(hospital))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, most))
    assert prepare(settings(hospital)).resumed > 0
    prepare(settings(hospital, "undisturbed"))
    assert public(hospital / "store") == public(hospital / "undisturbed")


def test_real_nih_pictures_are_kept_to_the_bit(shared_data, tmp_path):
    import cv2

    folder = shared_data / "nih1000"
    summary = prepare(
        PrepareSettings(
            source="nih",
            images=folder / "images",
            labels=folder / "Data_Entry_2017.csv",
            out=tmp_path / "nih",
            size=64,
            workers=0,
        )
    )
    assert (summary.images, summary.patients, summary.counts) == (710, 196, {"ok": 710})
    store = open_store(tmp_path / "nih")
    assert store.manifest.groupby("patient_key")["split"].nunique().max() == 1
    sources = csv.DictReader(io.StringIO((tmp_path / "nih" / "site_private" / "sources.csv").read_text()))
    path_of = {row["sample_id"]: row["path"] for row in sources}
    for index in range(0, 710, 97):
        original = cv2.imread(path_of[store.manifest["sample_id"][index]], cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(store.image(index), original)
    # Counted straight from the table: rows that name the finding.
    table = pd.read_csv(folder / "Data_Entry_2017.csv")
    for finding in store.vocabulary.findings:
        expected = table["Finding Labels"].str.split("|").map(lambda names, f=finding: f in names).sum()
        assert store.manifest[f"label:{finding}"].sum() == expected
    normal = (table["Finding Labels"] == "No Finding").sum()
    assert store.manifest["label:No Finding"].sum() == normal
