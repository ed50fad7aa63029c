"""A patient withdraws: nothing of theirs is left, nobody else loses anything, and a kill at any moment does no harm."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from nc_medfl.data.export import export_nifti, export_png
from nc_medfl.data.manifest import keyed_hash
from nc_medfl.data.prepare import prepare
from nc_medfl.data.private import PUBLIC_SALT
from nc_medfl.data.quality import write_quality
from nc_medfl.data.review import write_review
from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.store import Store, copy_rows, open_store, write_shard, write_store
from nc_medfl.data.tombstones import withdrawn_keys
from nc_medfl.data.usage import record_use
from nc_medfl.data.withdraw import Request, withdraw
from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary

SALT = b"0123456789abcdef"
ONE = Vocabulary("one", ("Edema",))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def store(tmp_path) -> Store:
    """Twelve images of six patients, P0 to P5, in three shards, each image of one grey level of its own."""
    folder = tmp_path / "store"
    digests = [hashlib.sha256(f"file {number}".encode()).hexdigest() for number in range(12)]
    frame = pd.DataFrame(
        {
            "sample_id": [keyed_hash(SALT, "sample", digest) for digest in digests],
            "patient_key": [keyed_hash(SALT, "patient", f"P{number // 2}") for number in range(12)],
            "split": ["train"] * 8 + ["val"] * 2 + ["test"] * 2,
            "source_sha256": digests,
            "shard": [number // 5 for number in range(12)],
            "row": [number % 5 for number in range(12)],
            "label:Edema": [number % 2 for number in range(12)],
        }
    )
    for shard in range(3):
        levels = [number for number in range(12) if number // 5 == shard]
        write_shard(folder, shard, np.stack([pixels_of(number) for number in levels]))
    (folder / "quarantine.csv").write_text(f'source_sha256,outcome,remedy\n{"0" * 64},modality,"Nothing, really."\n')
    private = folder / "site_private"
    private.mkdir(mode=0o700)
    (private / "salt.bin").write_bytes(SALT)
    return write_store(
        folder,
        frame,
        ONE,
        size=8,
        settings={"source": "dicom"},
        counts={"ok": 12, "modality": 1},
        settings_hash="how it was prepared",
    )


def pixels_of(number: int) -> np.ndarray:
    """Bytes that stand nowhere else: 64 of them, told apart by number."""
    return np.frombuffer(hashlib.sha512(f"pixels {number}".encode()).digest(), dtype=np.uint8).reshape(8, 8)


def found_in(folder: Path, needle: bytes) -> list[str]:
    return [name for name, content in contents(folder).items() if needle in content]


def test_a_patient_is_gone_from_every_byte_and_the_others_are_as_before(store):
    before = {row.sample_id: store.image(k).copy() for k, row in enumerate(store.manifest.itertuples())}
    assert found_in(store.folder, pixels_of(4).tobytes()) == ["shards/00000.npy"]
    (done,) = withdraw([store.folder], Request(patients=("P2",)), today="2026-01-02")
    assert (done.images, done.earlier, done.runs) == (2, 0, ())
    for number in (4, 5):
        assert found_in(store.folder, pixels_of(number).tobytes()) == []
        digest = hashlib.sha256(f"file {number}".encode()).hexdigest()
        assert found_in(store.folder, digest.encode()) == []
        assert digest not in pd.read_parquet(store.folder / "manifest.parquet").to_csv()
    after = open_store(store.folder)
    assert len(after) == 10
    for position, sample in enumerate(after.manifest["sample_id"]):
        np.testing.assert_array_equal(after.image(position), before[sample])
    old = store.manifest.set_index("sample_id").drop(columns=["shard", "row"])
    new = after.manifest.set_index("sample_id").drop(columns=["shard", "row"])
    pd.testing.assert_frame_equal(new, old.loc[new.index])
    assert after.info["counts"] == {"ok": 10, "modality": 1, "withdrawn": 2}


def test_a_tombstone_stays_and_names_nobody(store):
    withdraw([store.folder], Request(patients=("P2",)), today="2026-01-02")
    path = store.folder / "site_private" / "tombstones.json"
    assert path.stat().st_mode & 0o777 == 0o600
    (stone,) = json.loads(path.read_text())["tombstones"]
    key = keyed_hash(SALT, "patient", "P2")
    assert stone == {"kind": "patient", "key": key, "date": "2026-01-02", "images": 2}
    keys = withdrawn_keys(store.folder)
    assert keys.patients == {key}
    assert keys.covers(SALT, "P2", "any file")
    assert not keys.covers(SALT, "P3", "any file")
    assert found_in(store.folder, b"P2") == []


def test_shards_that_hold_nothing_of_theirs_are_not_written(store):
    middle = (store.folder / "shards" / "00001.npy").stat()
    withdraw([store.folder], Request(patients=("P0",)))
    after = (store.folder / "shards" / "00001.npy").stat()
    assert (after.st_ino, after.st_mtime_ns) == (middle.st_ino, middle.st_mtime_ns)


def test_a_shard_of_theirs_alone_is_gone(store):
    # The last shard holds images 10 and 11, both of P5.
    withdraw([store.folder], Request(patients=("P5",)))
    assert sorted(p.name for p in (store.folder / "shards").iterdir()) == ["00000.npy", "00001.npy"]
    assert open_store(store.folder).images(range(10)).shape == (10, 8, 8)


def test_everybody_may_withdraw(store):
    (done,) = withdraw([store.folder], Request(patients=tuple(f"P{n}" for n in range(6))))
    assert done.images == 12
    assert len(open_store(store.folder)) == 0
    assert list((store.folder / "shards").iterdir()) == []


def test_an_unknown_patient_changes_nothing_and_is_not_repeated(store):
    before = contents(store.folder)
    for request in (Request(patients=("Nobody^Known",)), Request(patients=("P1", "Nobody^Known"))):
        with pytest.raises(UserError, match="is not in it") as caught:
            withdraw([store.folder], request)
        assert "Nobody" not in str(caught.value)
    with pytest.raises(UserError, match="no sample x"):
        withdraw([store.folder], Request(samples=("x",)))
    after = contents(store.folder)
    after.pop("site_private/lock")
    assert after == before


def test_a_wrong_salt_is_told_from_an_unknown_patient(store, tmp_path):
    (tmp_path / "other").write_bytes(b"another secret of 16 bytes")
    with pytest.raises(UserError, match="was keyed with another salt"):
        withdraw([store.folder], Request(patients=("P1",)), salt_file=tmp_path / "other")
    (store.folder / "site_private" / "salt.bin").unlink()
    with pytest.raises(UserError, match="has no salt of its own"):
        withdraw([store.folder], Request(patients=("P1",)))
    (tmp_path / "salt").write_bytes(SALT)
    assert withdraw([store.folder], Request(patients=("P1",)), salt_file=tmp_path / "salt")[0].images == 2


def test_a_dry_run_changes_nothing(store):
    before = contents(store.folder)
    (done,) = withdraw([store.folder], Request(patients=("P1",)), dry_run=True)
    assert done.images == 2
    after = contents(store.folder)
    after.pop("site_private/lock")
    assert after == before


def test_single_images_are_taken_out_and_remembered(store):
    sample = str(store.manifest["sample_id"][3])
    (done,) = withdraw([store.folder], Request(samples=(sample,)), today="2026-01-02")
    assert done.images == 1
    assert sample not in set(open_store(store.folder).manifest["sample_id"])
    assert found_in(store.folder, pixels_of(3).tobytes()) == []
    assert found_in(store.folder, pixels_of(2).tobytes()) == ["shards/00000.npy"]
    digest = hashlib.sha256(b"file 3").hexdigest()
    keys = withdrawn_keys(store.folder)
    assert keys.covers(SALT, "P1", digest)
    assert not keys.covers(SALT, "P1", hashlib.sha256(b"file 2").hexdigest())


def test_exports_the_review_and_the_quality_page_forget_too(store):
    export_png(store)
    export_nifti(store)
    write_review(store, 12)
    write_quality(store, thumbnails=True)
    gone = [str(sample) for sample in store.manifest["sample_id"][4:6]]
    (done,) = withdraw([store.folder], Request(patients=("P2",)))
    assert done.exports == 4
    for sample in gone:
        assert [name for name in contents(store.folder) if sample in name] == []
        assert found_in(store.folder, sample.encode()) == []
    assert not (store.folder / "site_private" / "review.html").exists()
    assert json.loads((store.folder / "quality.json").read_text())["images"] == 10
    with (store.folder / "export" / "png" / "manifest.csv").open(newline="") as stream:
        assert {row["sample_id"] for row in csv.DictReader(stream)} == set(
            open_store(store.folder).manifest["sample_id"]
        )
    # What is left of the export is still what an export of the store would be.
    left = contents(store.folder / "export")
    export_png(open_store(store.folder))
    export_nifti(open_store(store.folder))
    assert contents(store.folder / "export") == left


def test_runs_that_used_them_are_named_and_others_are_not(store, tmp_path):
    settings = {"name": "cxr", "rounds": 3}
    record_use(store, job="job-1", name="cxr", settings=settings)
    record_use(store, job="job-1", name="cxr", settings=settings)
    withdraw([store.folder], Request(patients=("P0",)))
    record_use(open_store(store.folder), job="job-2", name="cxr", settings=settings)
    for name, run in {
        "first": {"settings": settings, "started": "2000-01-01T00:00:00+00:00", "ended": None, "name": "cxr"},
        "older": {"settings": {"name": "old"}, "started": "1999-01-01T00:00:00+00:00", "ended": None, "name": "old"},
        "elsewhere": {"settings": {"name": "x"}, "started": "1999-01-01T00:00:00+00:00", "ended": None, "name": "x"},
    }.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        prepared = "how it was prepared" if name == "older" else "otherwise"
        content = {**run, "fingerprints": {"preparation:north": prepared}}
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps(content))
    (again,) = withdraw([store.folder], Request(patients=("P0",)), runs=[tmp_path / "runs"])
    certain = [(use.job, use.splits, Path(use.folder).name) for use in again.runs if use.certain]
    assert certain == [("job-1", ("train",), "first")]
    assert [Path(use.folder).name for use in again.runs if not use.certain] == ["older"]
    (other,) = withdraw([store.folder], Request(patients=("P5",)), runs=[tmp_path / "runs"])
    assert [(use.job, use.splits) for use in other.runs if use.certain] == [("job-1", ("test",)), ("job-2", ("test",))]


def test_a_partitions_stores_are_served_with_the_pools_salt(store, tmp_path):
    sites = []
    for name, rows in {"a": range(6), "b": range(6, 12)}.items():
        frame = copy_rows(store, rows, tmp_path / name)
        write_store(tmp_path / name, frame, ONE, size=8, settings={}, counts={"ok": 6}, settings_hash="h")
        sites.append(tmp_path / name)
    done = withdraw([store.folder, *sites], Request(patients=("P4",)))
    assert [one.images for one in done] == [2, 0, 2]
    assert [len(open_store(folder)) for folder in (store.folder, *sites)] == [10, 6, 4]
    assert found_in(tmp_path, pixels_of(8).tobytes()) == []


def test_a_store_of_public_images_needs_no_salt(tmp_path):
    write_shard(tmp_path / "nih", 0, np.zeros((2, 8, 8), dtype=np.uint8))
    frame = pd.DataFrame(
        {
            "sample_id": ["a", "b"],
            "patient_key": [keyed_hash(PUBLIC_SALT, "patient", name) for name in ("13", "14")],
            "shard": 0,
            "row": [0, 1],
        }
    )
    write_store(tmp_path / "nih", frame, ONE, size=8, settings={"source": "nih"}, counts={"ok": 2}, settings_hash="h")
    assert withdraw([tmp_path / "nih"], Request(patients=("13",)))[0].images == 1


def test_a_store_at_work_is_left_alone(store):
    from nc_medfl.data.lock import store_lock

    with store_lock(store.folder), pytest.raises(UserError, match="another run is at work"):
        withdraw([store.folder], Request(patients=("P1",)))


def test_no_store_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        withdraw([tmp_path / "nowhere"], Request(patients=("P1",)))
    assert not (tmp_path / "nowhere").exists()


# Kills itself at the n-th time that the process asks for a change of the file system.
_KILLED = """
import os, signal, sys
from pathlib import Path
from nc_medfl.data.withdraw import Request, withdraw
left = int(sys.argv[2])
def hook(event, arguments):
    global left
    writes = event in ("os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "shutil.rmtree")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax"):
        writes = True
    if writes and sys.argv[1] in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
withdraw([Path(sys.argv[1])], Request(patients=("P2",)), today="2026-01-02")
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_at_any_change_it_is_finished_by_the_next_to_the_same_bytes(store, tmp_path):
    import shutil

    export_png(store)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(store.folder, undisturbed)
    withdraw([undisturbed], Request(patients=("P2",)), today="2026-01-02")
    expected = contents(undisturbed)
    (tmp_path / "killed.py").write_text(_KILLED)
    kills = 0
    for moment in range(2, 200, 8):
        copy = tmp_path / f"copy{moment}"
        shutil.copytree(store.folder, copy)
        words = [sys.executable, str(tmp_path / "killed.py"), str(copy), str(moment)]
        ended = subprocess.run(words, check=False, capture_output=True, text=True)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        kills += 1
        withdraw([copy], Request(patients=("P2",)), today="2026-01-02")
        assert contents(copy) == expected, f"killed at change {moment}"
        shutil.rmtree(copy)
    assert kills >= 4


# With a real preparation.


@pytest.fixture
def hospital(tmp_path, make_dicom, picture) -> Path:
    """Twelve radiographs of six patients, and two rejected files of the first of them."""
    rows = ["file,Effusion"]
    for number in range(12):
        name = f"SECRET-{number // 2}-im{number:02d}.dcm"
        make_dicom(tmp_path / "images" / name, np.roll(picture, number, axis=0), PatientID=f"SECRET-{number // 2}")
        rows.append(f"{name},{number % 2}")
    make_dicom(tmp_path / "images" / "SECRET-0-ct.dcm", picture, PatientID="SECRET-0", Modality="CT")
    make_dicom(tmp_path / "images" / "SECRET-1-ct.dcm", picture + np.uint16(1), PatientID="SECRET-1", Modality="CT")
    (tmp_path / "images" / "junk").write_text("no image")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "salt").write_bytes(SALT)
    return tmp_path


def prepare_in(hospital: Path) -> Path:
    prepare(
        PrepareSettings(
            source="dicom",
            images=hospital / "images",
            labels=hospital / "labels.csv",
            out=hospital / "store",
            salt_file=hospital / "salt",
            size=32,
            workers=0,
        )
    )
    return hospital / "store"


def test_a_prepared_store_forgets_a_patient_and_their_rejected_files(hospital):
    folder = prepare_in(hospital)
    before = open_store(folder).info["counts"]
    assert before == {"ok": 12, "modality": 2, "not_dicom": 1}
    (done,) = withdraw([folder], Request(patients=("SECRET-0",)), salt_file=hospital / "salt")
    assert (done.images, done.files, done.untold) == (2, 1, 1)
    assert open_store(folder).info["counts"] == {"ok": 10, "modality": 1, "not_dicom": 1, "withdrawn": 3}
    assert found_in(folder, b"SECRET-0") == []
    assert found_in(folder, b"SECRET-1") != []
    sources = list(csv.DictReader(io.StringIO((folder / "site_private" / "sources.csv").read_text())))
    assert len(sources) == 12
    assert (folder / "quarantine.csv").read_text().count("modality") == 1


def test_preparing_again_does_not_bring_them_back(hospital, make_dicom, picture):
    folder = prepare_in(hospital)
    withdraw([folder], Request(patients=("SECRET-0",)), salt_file=hospital / "salt")
    key = keyed_hash(SALT, "patient", "SECRET-0")
    prepare_in(hospital)
    assert key not in set(open_store(folder).manifest["patient_key"])
    # The files are still in the images folder; only the private index of that folder knows them.
    assert found_in(folder, b"SECRET-0-im") == ["site_private/index.jsonl"]
    # With something new to do, and the files taken away.
    make_dicom(hospital / "images" / "new.dcm", np.flipud(picture).copy(), PatientID="SECRET-9")
    with (hospital / "labels.csv").open("a") as table:
        table.write("new.dcm,1\n")
    prepare_in(hospital)
    frame = open_store(folder).manifest
    assert len(frame) == 11
    assert key not in set(frame["patient_key"])
    assert open_store(folder).info["counts"]["withdrawn"] == 2
    for path in (hospital / "images").glob("SECRET-0*"):
        path.unlink()
    prepare_in(hospital)
    assert len(open_store(folder).manifest) == 11
    assert found_in(folder, b"SECRET-0-im") == ["site_private/labels_without_image.csv"]


def test_their_pixels_do_not_come_back_under_another_name(hospital):
    folder = prepare_in(hospital)
    copy = pydicom.dcmread(hospital / "images" / "SECRET-0-im00.dcm")
    copy.PatientID, copy.SOPInstanceUID = "SECRET-8", pydicom.uid.generate_uid()
    copy.save_as(hospital / "images" / "zz.dcm")
    with (hospital / "labels.csv").open("a") as table:
        table.write("zz.dcm,1\n")
    prepare_in(hospital)
    assert open_store(folder).info["counts"]["duplicate_pixels"] == 1
    withdraw([folder], Request(patients=("SECRET-0",)), salt_file=hospital / "salt")
    prepare_in(hospital)
    assert open_store(folder).info["counts"]["duplicate_pixels"] == 1
    assert len(open_store(folder)) == 10


def test_a_rejected_file_that_the_table_says_is_theirs_stays_off_the_lists(tmp_path, make_dicom, picture):
    names = ("a", "b", "c", "d")
    for number, name in enumerate(names):
        # The last is of the withdrawn patient, and rejected.
        changes = {"Modality": "CT"} if name == "d" else {}
        shifted = np.roll(picture, number, axis=0)
        make_dicom(tmp_path / "images" / f"film-{name}.dcm", shifted, PatientID="", **changes)
    rows = [f"film-{name}.dcm,{'SECRET' if name in 'ad' else name},1\n" for name in names]
    (tmp_path / "labels.csv").write_text("file,Patient ID,Effusion\n" + "".join(rows))
    (tmp_path / "salt").write_bytes(SALT)
    folder = prepare_in(tmp_path)
    (done,) = withdraw([folder], Request(patients=("SECRET",)), salt_file=tmp_path / "salt")
    assert (done.images, done.files) == (1, 1)
    make_dicom(tmp_path / "images" / "new.dcm", np.flipud(picture).copy())
    prepare_in(tmp_path)
    assert open_store(folder).info["counts"] == {"ok": 2, "no_label": 1, "withdrawn": 2}
    assert b"film-d" not in (folder / "site_private" / "sources.csv").read_bytes()


def test_what_an_archive_gave_of_theirs_is_gone_and_the_rest_stays(hospital):
    """``--keep-downloads`` leaves fetched files in the store's own folder, under keyed names."""
    (hospital / "store" / "site_private" / "pacs").mkdir(parents=True)
    images = hospital / "store" / "site_private" / "pacs" / "images"
    (hospital / "images").rename(images)
    (hospital / "images").symlink_to(images)
    folder = prepare_in(hospital)
    (images.parent / "failed.csv").write_text("name,sop_uid\nx,1.2.3\n")
    (images.parent / "plan-0.jsonl").write_text('["SECRET-0"]\n')
    withdraw([folder], Request(patients=("SECRET-0",)), salt_file=hospital / "salt")
    left = {path.name for path in images.iterdir()}
    assert not any(name.startswith("SECRET-0") for name in left)
    assert {"SECRET-1-im02.dcm", "SECRET-1-im03.dcm"} <= left
    assert [path.name for path in images.parent.iterdir()] == ["images"]
    assert found_in(folder, b"SECRET-0") == []


def test_an_identifier_that_a_table_took_for_a_number_is_found_in_both_spellings(tmp_path, make_dicom, picture):
    for number in range(4):
        make_dicom(tmp_path / "images" / f"{number}.dcm", np.roll(picture, number, axis=0), PatientID="")
    rows = [f"{number}.dcm,{1200 + number}.0,1\n" for number in range(4)]
    (tmp_path / "labels.csv").write_text("file,Patient ID,Effusion\n" + "".join(rows))
    (tmp_path / "salt").write_bytes(SALT)
    folder = prepare_in(tmp_path)
    for spelling in ("1200", "1201.0"):
        (done,) = withdraw([folder], Request(patients=(spelling,)), salt_file=tmp_path / "salt")
        assert done.images == 1
    with pytest.raises(UserError, match="this patient is not in it"):
        withdraw([folder], Request(patients=("120",)), salt_file=tmp_path / "salt")


def test_files_of_others_without_a_byte_stay_on_the_lists(tmp_path, make_dicom, picture):
    """All empty files have one SHA-256; the label table says whose they are."""
    for number in range(3):
        make_dicom(tmp_path / "images" / f"{number}.dcm", np.roll(picture, number, axis=0), PatientID="")
    for name in ("a", "b", "nobody"):
        (tmp_path / "images" / f"empty-{name}.dcm").write_bytes(b"")
    rows = [f"{number}.dcm,{'ab'[number % 2]},1\n" for number in range(3)]
    rows += ["empty-a.dcm,a,1\n", "empty-b.dcm,b,1\n"]
    (tmp_path / "labels.csv").write_text("file,Patient ID,Effusion\n" + "".join(rows))
    (tmp_path / "salt").write_bytes(SALT)
    folder = prepare_in(tmp_path)
    (done,) = withdraw([folder], Request(patients=("a",)), salt_file=tmp_path / "salt")
    assert (done.images, done.files) == (2, 1)
    assert open_store(folder).info["counts"] == {"ok": 1, "empty_file": 2, "withdrawn": 3}
    assert (folder / "quarantine.csv").read_text().count("empty_file") == 2
    listed = (folder / "site_private" / "sources.csv").read_text()
    assert [name in listed for name in ("empty-a", "empty-b", "empty-nobody")] == [False, True, True]
