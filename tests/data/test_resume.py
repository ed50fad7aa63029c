"""What a second preparation of a store does: nothing, what is new, or, with other settings, refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
from prepare_support import FILES, command, contents, settings

from nc_medfl.data.index import read_index
from nc_medfl.data.prepare import prepare
from nc_medfl.errors import UserError


def test_a_rerun_without_changes_reads_nothing_and_says_so(archive, undisturbed, tmp_path):
    out = tmp_path / "store"
    first = prepare(settings(archive, out))
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "lock"}
    again = prepare(settings(archive, out))
    assert (again.unchanged, again.resumed) == (True, FILES + 2)
    assert (again.counts, again.splits, again.positives) == (first.counts, first.splits, first.positives)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert contents(out) == undisturbed
    done = subprocess.run(command(archive, out), capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Nothing has changed; the store stands as it was.\n")


def test_a_changed_file_that_a_killed_run_had_read_comes_into_the_store(archive, tmp_path, make_dicom, picture):
    images, out = tmp_path / "images", tmp_path / "store"
    shutil.copytree(archive / "images", images)
    prepare(settings(archive, out, images=images))
    make_dicom(images / "0" / "im000.dcm", np.ascontiguousarray(picture[::-1]), PatientID="0")
    with pytest.raises(RuntimeError):
        # Ends once all is read and journalled, before the store is made.
        prepare(settings(archive, out, images=images), progress=_end_at_the_last)
    summary = prepare(settings(archive, out, images=images))
    assert (summary.resumed, summary.unchanged) == (FILES + 2, False)
    prepare(settings(archive, tmp_path / "fresh", images=images))
    assert contents(out) == contents(tmp_path / "fresh")


def _end_at_the_last(done, total, _outcomes):
    if done == total:
        raise RuntimeError


def test_pixels_of_files_that_stay_are_taken_from_the_store(archive, undisturbed, tmp_path, make_dicom, picture):
    images, out = tmp_path / "images", tmp_path / "store"
    shutil.copytree(archive / "images", images)
    prepare(settings(archive, out, images=images))
    # A file that is not read again may as well hold something else of its length and time.
    old = images / "0" / "im000.dcm"
    status = old.stat()
    old.write_bytes(bytes(status.st_size))
    os.utime(old, ns=(status.st_atime_ns, status.st_mtime_ns))
    make_dicom(images / "9" / "new.dcm", np.ascontiguousarray(picture[::-1]), PatientID="another")
    (tmp_path / "labels.csv").write_text((archive / "labels.csv").read_text() + "9/new.dcm,1,1\n")
    summary = prepare(settings(archive, out, images=images, labels=tmp_path / "labels.csv"))
    assert (summary.images, summary.resumed, summary.counts["ok"]) == (FILES + 1, FILES + 2, FILES + 1)
    assert any("labels.csv says other than when the store was first made" in text for text in summary.warnings)
    shutil.copy2(archive / "images" / "0" / "im000.dcm", old)
    os.utime(old, ns=(status.st_atime_ns, status.st_mtime_ns))
    prepare(settings(archive, tmp_path / "fresh", images=images, labels=tmp_path / "labels.csv"))
    assert contents(out) == contents(tmp_path / "fresh")


def test_an_image_that_had_no_label_and_gets_one_is_read_again(archive, undisturbed, tmp_path):
    out = tmp_path / "store"
    lines = (archive / "labels.csv").read_text().splitlines(keepends=True)
    (tmp_path / "labels.csv").write_text("".join(lines[:-3]))
    assert prepare(settings(archive, out, labels=tmp_path / "labels.csv")).counts["no_label"] == 3
    (tmp_path / "labels.csv").write_text("".join(lines))
    summary = prepare(settings(archive, out, labels=tmp_path / "labels.csv"))
    assert (summary.images, summary.resumed) == (FILES, FILES + 2)
    assert contents(out) == undisturbed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 32}, "--size 64, this run has 32"),
        ({"seed": 7}, "--seed 0, this run has 7"),
        ({"fractions": (0.6, 0.2, 0.2)}, "--fractions 0.7,0.1,0.2, this run has 0.6,0.2,0.2"),
        ({"site": "elsewhere"}, "--site site, this run has elsewhere"),
        ({"uncertain": "ones"}, "--uncertain ignore, this run has ones"),
        ({"salt_file": "other"}, "another salt"),
    ],
)
def test_another_setting_is_refused_by_name_and_the_store_stands(archive, undisturbed, tmp_path, change, message):
    out = tmp_path / "store"
    prepare(settings(archive, out))
    if "salt_file" in change:
        change = {"salt_file": tmp_path / "salt"}
        change["salt_file"].write_bytes(b"another secret of 16 bytes")
    with pytest.raises(UserError, match=message) as caught:
        prepare(settings(archive, out, **change))
    assert "Give --replace to make the store anew, or another --out." in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(out) == undisturbed
    summary = prepare(settings(archive, out, **change, replace=True))
    # What decides the pixels is read again, the rest is taken over.
    assert summary.resumed == (0 if "size" in change else FILES + 2)
    prepare(settings(archive, tmp_path / "fresh", **change))
    assert contents(out) == contents(tmp_path / "fresh")


def test_images_whose_files_are_gone_are_not_dropped_unasked(archive, tmp_path):
    images, out = tmp_path / "images", tmp_path / "store"
    shutil.copytree(archive / "images", images)
    prepare(settings(archive, out, images=images))
    before = contents(out)
    (images / "0").rename(tmp_path / "elsewhere")
    (images / "notes.txt").unlink()
    with pytest.raises(UserError, match=r"18 of the 120 images in the store come from files that are gone"):
        prepare(settings(archive, out, images=images))
    assert contents(out) == before
    assert prepare(settings(archive, out, images=images, replace=True)).images == FILES - 18


def test_a_file_that_moved_is_not_gone(archive, tmp_path):
    images, out = tmp_path / "images", tmp_path / "store"
    shutil.copytree(archive / "images", images)
    prepare(settings(archive, out, images=images))
    (images / "0").rename(images / "zero")
    text = (archive / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text(text.replace("\n0/", "\nzero/"))
    summary = prepare(settings(archive, out, images=images, labels=tmp_path / "labels.csv"))
    assert summary.images == FILES


@pytest.mark.parametrize("damage", ["shards/00000.npy", "manifest.parquet", "prepare.json", "site_private/index.jsonl"])
def test_what_is_damaged_is_made_again(archive, undisturbed, tmp_path, damage):
    out = tmp_path / "store"
    prepare(settings(archive, out))
    (out / damage).write_bytes((out / damage).read_bytes()[:-2000])
    prepare(settings(archive, out, replace=damage.endswith("jsonl")))
    assert contents(out) == undisturbed


def test_a_store_that_was_not_prepared_here_is_not_overwritten(archive, tmp_path):
    out = tmp_path / "store"
    prepare(settings(archive, out))
    shutil.rmtree(out / "site_private")
    before = contents(out)
    with pytest.raises(UserError, match="is a store, but not one that this version of 'nc-medfl prepare' made here"):
        prepare(settings(archive, out))
    assert {name: data for name, data in contents(out).items() if not name.startswith("site_private")} == before


def test_twenty_thousand_files_are_listed_and_resumed_in_seconds(tmp_path, picture, make_dicom):
    """All but one are no images, and empty: what is measured is everything but reading."""
    images, out = tmp_path / "images", tmp_path / "store"
    make_dicom(images / "one.dcm", picture)
    for folder in range(100):
        (images / str(folder)).mkdir()
        for number in range(200):
            (images / str(folder) / str(number)).touch()
    (tmp_path / "labels.csv").write_text("file,Effusion\none.dcm,1\n")
    (tmp_path / "salt").write_bytes(b"0123456789abcdef")
    prepare(settings(tmp_path, out))
    start_at = time.perf_counter()
    summary = prepare(settings(tmp_path, out))
    assert (summary.resumed, summary.unchanged) == (20_001, True)
    assert time.perf_counter() - start_at < 5


def test_the_index_is_of_the_files_as_they_were_read(archive, tmp_path):
    out = tmp_path / "store"
    prepare(settings(archive, out))
    index = read_index(out)
    assert index is not None
    frame = pd.read_parquet(out / "manifest.parquet")
    ok = [record for _, record in index.each() if record.outcome == "ok"]
    assert {record.source_sha256 for record in ok} == set(frame["source_sha256"])
