"""PNG and NIfTI copies of a store: the same pixels to other readers, the same bytes each time, resumable."""

from __future__ import annotations

import csv
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from nc_medfl.data.export import export_nifti, export_png
from nc_medfl.data.export.pictures import affine_of, spacing_of
from nc_medfl.data.store import open_store, write_shard, write_store
from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary
from tests_support import tiny_store

EXPORTS = [(export_png, "png", ".png"), (export_nifti, "nifti", ".nii.gz")]


@pytest.fixture
def store(tmp_path):
    return tiny_store(tmp_path / "store", images=6, size=16)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_png_has_the_stored_pixels_to_another_decoder(store):
    summary = export_png(store)
    assert (summary.images, summary.written) == (6, 6)
    assert summary.folder == store.folder / "export" / "png"
    for index, sample in enumerate(store.manifest["sample_id"]):
        decoded = imagecodecs.png_decode((summary.folder / f"{sample}.png").read_bytes())
        np.testing.assert_array_equal(decoded, store.image(index))


def test_a_nifti_has_the_stored_pixels_to_nibabel_and_stands_upright(store):
    folder = export_nifti(store).folder
    for index, sample in enumerate(store.manifest["sample_id"]):
        image = nib.load(folder / f"{sample}.nii.gz")
        assert image.shape == (16, 16, 1)
        assert image.get_data_dtype() == np.uint8
        # The first axis runs along a row towards the patient's left, the second down the column to the feet.
        assert nib.aff2axcodes(image.affine) == ("L", "I", "A")
        # Turned to right-anterior-superior by nibabel, and looked at with the patient's left on the right.
        upright = np.asarray(nib.as_closest_canonical(image).dataobj)[::-1, 0, ::-1].T
        np.testing.assert_array_equal(upright, store.image(index))


def test_a_picture_from_the_side_lies_in_the_sagittal_plane():
    assert nib.aff2axcodes(affine_of("LL", 0.5)) == ("P", "I", "R")
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine_of("LL", 0.5)), (0.5, 0.5, 1.0))


def test_the_spacing_is_that_of_the_stored_pixels(tmp_path):
    # 2000 rows of 0.14 mm are 280 mm; the 50 rows that they became are 5.6 mm each.
    one = Vocabulary("one", ("Edema",))
    write_shard(tmp_path / "s", 0, np.full((2, 64, 64), 7, dtype=np.uint8))
    frame = pd.DataFrame(
        {
            "sample_id": ["a", "b"],
            "patient_key": ["p", "q"],
            "shard": [0, 0],
            "row": [0, 1],
            "rows": [2000, 2000],
            "cols": [2560, 2560],
            "spacing": [0.14, np.nan],
            "pad_box": ["7,0,50,64", "7,0,50,64"],
            "label:Edema": [1, np.nan],
            "raw:Edema": ["=HYPERLINK(1)", "Mr. Smith"],
        }
    )
    store = write_store(tmp_path / "s", frame, one, size=64, settings={}, counts={}, settings_hash="h")
    folder = export_nifti(store).folder
    known, unknown = (nib.load(folder / f"{name}.nii.gz") for name in "ab")
    np.testing.assert_allclose(known.header.get_zooms()[:2], 5.6, rtol=1e-6)
    assert known.header.get_xyzt_units()[0] == "mm"
    assert unknown.header.get_xyzt_units()[0] == "unknown"
    rows = lines(folder)
    assert [row["file"] for row in rows] == ["a.nii.gz", "b.nii.gz"]
    assert [row["file_spacing"] for row in rows] == ["5.6", ""]
    assert [row["label:Edema"] for row in rows] == ["1", ""]
    assert "Smith" not in (folder / "manifest.csv").read_text()
    assert "HYPERLINK" not in (folder / "manifest.csv").read_text()
    assert spacing_of({"spacing": 0.14, "rows": 2000, "pad_box": None}) is None


@pytest.mark.parametrize(("export", "kind", "suffix"), EXPORTS)
def test_the_same_store_gives_the_same_bytes(tmp_path, export, kind, suffix):
    one, two = (export(tiny_store(tmp_path / name, images=4, size=16)).folder for name in ("one", "two"))
    assert files(one) == files(two)
    assert len(files(one)) == 5


@pytest.mark.parametrize(("export", "kind", "suffix"), EXPORTS)
def test_an_interrupted_export_goes_on_and_mends_what_was_spoilt(store, export, kind, suffix):
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(store, progress=stop)
    folder = store.folder / "export" / kind
    # The list comes last: without it an export is not whole.
    assert not (folder / "manifest.csv").exists()
    first, second = (folder / f"{name}{suffix}" for name in store.manifest["sample_id"][:2])
    first.write_bytes(first.read_bytes()[:-9])
    stood = second.stat().st_mtime_ns
    assert export(store).written == 4
    assert second.stat().st_mtime_ns == stood
    assert export(store).written == 0


@pytest.mark.parametrize(("export", "kind", "suffix"), EXPORTS)
def test_what_left_the_store_leaves_its_export(store, export, kind, suffix):
    export(store)
    left = store.manifest.iloc[:4]
    write_store(store.folder, left, store.vocabulary, size=16, settings={}, counts={}, settings_hash="h")
    folder = export(open_store(store.folder)).folder
    assert sorted(files(folder)) == sorted([*(f"{name}{suffix}" for name in left["sample_id"]), "manifest.csv"])


@pytest.mark.parametrize(("export", "kind", "suffix"), EXPORTS)
def test_a_file_that_reads_back_otherwise_is_an_error(store, monkeypatch, export, kind, suffix):
    from nc_medfl.data.export import folder as folders

    def a_bad_disk(path: Path, content: bytes) -> bool:
        path.write_bytes(content[:-40] + bytes(40))
        return True

    monkeypatch.setattr(folders, "put", a_bad_disk)
    with pytest.raises(UserError, match="does not read back as it was written"):
        export(store)


def test_a_folder_with_other_files_is_left_alone(store):
    (store.folder / "export" / "png").mkdir(parents=True)
    (store.folder / "export" / "png" / "thesis.txt").write_text("all my work")
    with pytest.raises(UserError, match="holds other files"):
        export_png(store)
    assert (store.folder / "export" / "png" / "thesis.txt").read_text() == "all my work"


def test_a_sample_id_is_no_way_out_of_the_folder(store):
    frame = store.manifest.copy()
    frame.loc[0, "sample_id"] = "../../outside"
    odd = write_store(store.folder, frame, store.vocabulary, size=16, settings={}, counts={}, settings_hash="h")
    with pytest.raises(UserError, match="not usable as a file name"):
        export_png(odd)
