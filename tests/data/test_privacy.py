"""Nothing but ``site_private`` leads back: a mark in every text that a file can hold, looked for in every output."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from prepare_support import command
from pydicom import config
from pydicom.datadict import DicomDictionary, RepeatersDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from nc_medfl.data.manifest import keyed_hash
from nc_medfl.data.prepare import prepare
from nc_medfl.data.private import plain_cell, safe_cell
from nc_medfl.data.settings import PrepareSettings

MARK = "MQZX"
DATE, TIME = "19770707", "070707.770707"
UID_ROOT = "1.2.826.0.1.77077"
_TEXT = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
#: What decides whether a file is read at all, and so how far the marks in it get.
_NEEDED = frozenset(
    {
        *("TransferSyntaxUID", "SOPClassUID", "SpecificCharacterSet", "Modality", "BodyPartExamined"),
        *("PhotometricInterpretation", "BurnedInAnnotation", "DirectoryRecordSequence"),
    }
)


@pytest.fixture(autouse=True)
def lenient() -> Iterator[None]:
    """Let pydicom write values that the standard forbids."""
    before = config.settings.writing_validation_mode, config.settings.reading_validation_mode
    config.settings.writing_validation_mode = config.settings.reading_validation_mode = config.IGNORE
    yield
    config.settings.writing_validation_mode, config.settings.reading_validation_mode = before


def marked(vr: str, number: int) -> object:
    """A mark in the form of a value representation; None where it has no text."""
    if vr in _TEXT:
        return f"{MARK}{number}"
    return {"DA": DATE, "TM": TIME, "DT": DATE + TIME, "UI": UID(f"{UID_ROOT}.{number}")}.get(vr)


def plant(dataset: Dataset) -> int:
    """Put marks wherever the dictionary knows a text, a date or a UID, and in sequences, private and overlay data."""
    planted = 0
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if keyword in _NEEDED or not 0x0008 <= tag >> 16 < 0x7FE0 or (tag >> 16, vr) == (0x0028, "SQ"):
            continue
        if vr == "SQ" and tag >> 16 != 0x5400:
            item = Dataset()
            item.PatientName, item.StudyDate = f"{MARK}NESTED", DATE
            item.add_new(0x00090010, "LO", f"{MARK}CREATOR")
            item.add_new(0x00091001, "UT", f"{MARK}DEEP")
            dataset.add(DataElement(tag, "SQ", Sequence([item])))
        elif (value := marked(vr, tag)) is not None:
            dataset.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
        else:
            continue
        planted += 1
    for mask, (vr, *_) in RepeatersDictionary.items():
        tag = int(mask.replace("x", "0"), 16)
        if tag >> 16 in (0x6000, 0x5000) and vr in _TEXT:
            dataset.add(DataElement(tag, vr, f"{MARK}OVERLAY", validation_mode=config.IGNORE))
    dataset.add_new(0x60003000, "OW", f"{MARK}OVERLAYDATA ".encode())
    for group in (0x0009, 0x0029, 0x0071, 0x7777):
        dataset.add_new((group << 16) | 0x10, "LO", f"{MARK}CREATOR")
        dataset.add_new((group << 16) | 0x1001, "UN", f"{MARK}UNKNOWN!".encode())
        dataset.add_new((group << 16) | 0x1002, "SQ", Sequence([Dataset()]))
    dataset.add_new(0xFFFCFFFC, "OB", f"{MARK}TRAILING".encode())
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = DATE, f"{MARK}SEX", f"{MARK}AGE"
    meta = dataset.file_meta
    meta.SourceApplicationEntityTitle, meta.ImplementationVersionName = f"{MARK}AE", f"{MARK}VERSION"
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = UID(UID_ROOT), f"{MARK}PRIVATE".encode()
    meta.SendingApplicationEntityTitle, meta.ReceivingApplicationEntityTitle = f"{MARK}A", f"{MARK}B"
    dataset.preamble = (f"{MARK}PREAMBLE" * 16).encode()[:128]
    return planted


@pytest.fixture(scope="module")
def hospital(tmp_path_factory, make_dicom, picture) -> Path:
    """Files with marks everywhere: some that are kept, and one for each way of being rejected that marks may reach."""
    folder = tmp_path_factory.mktemp("hospital")
    images = folder / "images" / f"{MARK} ward"
    before = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.IGNORE
    names = ["one.dcm", "=cmd|' /C calc'!A0.dcm", "+2.dcm", "-3.dcm", "@sum.dcm", "a\nb\x07.dcm"]
    for number, name in enumerate(names):
        path = make_dicom(images / f"{MARK}{name}", np.roll(picture, number, axis=0) + np.uint16(number))
        dataset = pydicom.dcmread(path)
        assert plant(dataset) > 3000
        dataset.PatientID = f"={MARK}-PATIENT-{number // 2}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"{UID_ROOT}.5.{number}")
        if number == 5:
            dataset.PatientID = MARK * 1000
        dataset.save_as(path)
    rejected = {
        "modality": {"Modality": MARK},
        "body": {"BodyPartExamined": MARK},
        "photometric": {"PhotometricInterpretation": MARK},
        "nobody": {"PatientID": ""},
        "burned": {"BurnedInAnnotation": "YES", "PatientID": MARK},
        "syntax": {},
        "unlabelled": {"PatientID": MARK, "PatientName": MARK},
    }
    for number, (name, elements) in enumerate(rejected.items(), 20):
        path = make_dicom(images / f"{MARK}{name}.dcm", np.roll(picture, number, axis=0), **elements)
        if name == "syntax":
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = UID(f"{UID_ROOT}.9")
            dataset.save_as(path, implicit_vr=False, little_endian=True)
    config.settings.writing_validation_mode = before
    (images / f"{MARK}.txt").write_text(f"letter about {MARK}")
    (images / f"{MARK}cut.dcm").write_bytes((images / f"{MARK}one.dcm").read_bytes()[:-2000])
    (images / f"{MARK}copy.dcm").write_bytes((images / f"{MARK}one.dcm").read_bytes())
    not_utf8 = os.fsencode(images) + b"/" + MARK.encode() + b"\xfc\xe9.dcm"
    Path(os.fsdecode(not_utf8)).write_bytes(b"")
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["file", "Effusion", "Mass", "comment", "Patient Name", "Study Date"])
    for number, name in enumerate([*names, *(f"{name}.dcm" for name in rejected if name != "unlabelled"), "copy.dcm"]):
        path = f"{MARK} ward/{MARK}{name}"
        writer.writerow([path, number % 2, "01"[number % 3 == 0], f"says {MARK}", f"{MARK}^Name", DATE])
    writer.writerow([f"=HYPERLINK({MARK})", 1, 0, MARK, MARK, DATE])
    (folder / "labels.csv").write_text(table.getvalue())
    (folder / "salt").write_bytes(b"0123456789abcdef")
    return folder


@pytest.fixture(scope="module")
def prepared(hospital) -> subprocess.CompletedProcess[str]:
    """A run of the command, as a user gives it."""
    words = command(hospital, hospital / "store", "--ignore-column", "comment")
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


def secrets_of(hospital: Path) -> list[re.Pattern[bytes]]:
    """What must not be found: the mark in any case and in UTF-16, dates, times, UIDs, the folder's path."""
    texts = [MARK, DATE, TIME, UID_ROOT, str(hospital / "images")]
    plain = [re.compile(re.escape(text.encode()), re.IGNORECASE) for text in texts]
    return plain + [re.compile(re.escape(text.encode("utf-16-le")), re.IGNORECASE) for text in texts]


def outputs(store: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files outside ``site_private``, Parquet also decoded."""
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store).as_posix()
        if name.split("/")[0] == "site_private":
            continue
        yield f"name of {name}", name.encode()
        if path.is_file():
            yield name, path.read_bytes()
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            yield f"{name} decoded", frame.to_csv().encode("utf-8", "surrogatepass")
            yield f"{name} as repr", repr(frame.to_dict()).encode("utf-8", "surrogatepass")


def test_no_mark_leaves_site_private(hospital, prepared):
    assert prepared.returncode == 0, prepared.stderr
    counts = json.loads((hospital / "store" / "prepare.json").read_text())["counts"]
    assert counts["ok"] == 6
    # All ways of being rejected that were made, were met.
    assert {"modality", "body_part", "photometric", "no_patient_id", "burned_in", "not_dicom"} <= set(counts)
    assert {"truncated", "duplicate_image", "no_label", "empty_file"} <= set(counts)
    found = dict(outputs(hospital / "store"))
    assert {"manifest.parquet", "manifest.parquet decoded", "prepare.json", "quarantine.csv"} <= set(found)
    found.update(stdout=prepared.stdout.encode(), stderr=prepared.stderr.encode())
    for name, content in found.items():
        for secret in secrets_of(hospital):
            assert not secret.search(content), f"{secret.pattern!r} in {name}"


def test_the_marks_are_in_site_private_so_the_search_looks_for_what_is_there(hospital, prepared):
    private = b"".join(path.read_bytes() for path in (hospital / "store" / "site_private").iterdir())
    for text in (MARK, UID_ROOT, str(hospital / "images")):
        assert text.encode() in private


def pictures(folder: Path) -> dict[str, bytes]:
    """Pictures with marks in whatever their formats let people write, some of them broken."""
    grey = np.random.default_rng(0).integers(0, 256, (80, 80), dtype=np.uint8)
    notes, exif = PngInfo(), Image.Exif()
    notes.add_text(f"{MARK}-key", f"{MARK}-text")
    exif[0x010E] = exif[0x013B] = MARK
    image = nib.Nifti1Image(grey[:, :, None].astype(np.int16), np.eye(4))
    image.header["descrip"] = image.header["aux_file"] = image.header["intent_name"] = MARK.encode()
    Image.fromarray(grey).save(folder / "a.png", pnginfo=notes)
    Image.fromarray(grey).rotate(90).save(folder / "b.jpg", exif=exif, comment=MARK.encode())
    tifffile.imwrite(folder / "c.tif", grey.T, description=MARK, software=MARK, metadata=None)
    nib.save(image, folder / "d.nii")
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    # A chunk that nobody knows and that has to be known: its name is told by libpng on standard error.
    chunk = MARK.encode() * 2
    chunk = len(MARK).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    broken = {
        "e.png": kept["a.png"][:33] + chunk + kept["a.png"][33:],
        "f.tif": kept["c.tif"].replace(b"\x00\x01\x03\x00", b"\x00\x01\xff\xff", 1),
        "g.nii": kept["d.nii"][:70] + b"\xff\xff" + kept["d.nii"][72:],
    }
    return kept | broken


def test_no_mark_in_a_picture_comes_out_nor_what_its_decoder_says(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    files = pictures(images)
    for name, content in files.items():
        (images / name).write_bytes(content)
    rows = [f"{name},{number},Mass" for number, name in enumerate(files)]
    (tmp_path / "labels.csv").write_text("\n".join(["Image Index,Patient ID,Finding Labels", *rows]) + "\n")
    (tmp_path / "salt").write_bytes(b"0123456789abcdef")
    words = command(tmp_path, tmp_path / "store", "--source", "folder", "--write", "png", "--write", "nifti")
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "store" / "prepare.json").read_text())["counts"]
    assert counts["ok"] == 4
    assert sum(counts.values()) == 7
    assert all(
        line.startswith(("Reading radiographs", "Pages and copies")) for line in done.stderr.splitlines() if line
    )
    found = dict(outputs(tmp_path / "store")) | {"stdout": done.stdout.encode()}
    assert [name for name, content in found.items() if MARK.encode() in content] == []


def listing(text: str) -> str:
    """The label table with one column that lists the findings."""
    return re.sub(",[01],[01],", ",Mass,,", text.replace("Effusion,Mass", "Finding Labels,Portable"))


@pytest.mark.parametrize(
    ("change", "more"),
    [
        # A finding's cell with a free text, a listing with one, rows that disagree, no image that matches.
        (lambda text: text.replace(",0,1,", f",{MARK} dictated,1,", 1), ()),
        (lambda text: listing(text).replace(",Mass,", f",Mass|{MARK},", 1), ()),
        (lambda text: text + text.splitlines()[1].replace(",0,1,", ",1,0,") + "\n", ()),
        (lambda text: text.replace(" ward/", " elsewhere/").replace(".dcm", ".x"), ()),
        (lambda text: text.replace("file,", f"{MARK}.dcm,", 1), ()),
        (lambda text: text.replace('"', ""), ()),
        (lambda text: text + f"{MARK},{MARK}" + ",x" * 30 + "\n", ()),
    ],
)
def test_no_mark_is_in_what_an_error_says(hospital, tmp_path, change, more):
    (tmp_path / "labels.csv").write_text(change((hospital / "labels.csv").read_text()))
    words = command(
        hospital, tmp_path / "store", "--ignore-column", "comment", "--labels", str(tmp_path / "labels.csv")
    )
    done = subprocess.run([*words, *more], capture_output=True, text=True, check=False, timeout=120)
    said = (done.stdout + done.stderr).encode()
    assert b"Traceback" not in said
    for secret in secrets_of(hospital):
        assert not secret.search(said), said
    if (tmp_path / "store").exists():
        for name, content in outputs(tmp_path / "store"):
            assert not any(secret.search(content) for secret in secrets_of(hospital)), name


def test_hostile_names_reach_tables_only_as_harmless_cells(hospital, prepared):
    for path in (hospital / "store").rglob("*.csv"):
        content = path.read_bytes()
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", content)
        content.decode("utf-8")
        rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
        assert {len(row) for row in rows} == {len(rows[0])}
        for row in rows:
            assert not any(cell.startswith(("=", "+", "-", "@")) or "\n" in cell for cell in row), path.name
    rows = list(csv.DictReader((hospital / "store" / "site_private" / "sources.csv").open(encoding="utf-8")))
    assert all(os.path.exists(os.fsencode(plain_cell(row["path"]))) for row in rows)  # noqa: PTH110
    assert any("\n" in plain_cell(row["path"]) for row in rows)


@pytest.mark.parametrize(
    "text",
    ["", "plain", "=1+1", "'=1+1", "a\nb", "\\n", "\\u000a", "\udcff", "-1", " @x", "'", "a\x07\\", "Ünal\u2028"],
)
def test_a_safe_cell_is_harmless_and_can_be_undone(text):
    cell = safe_cell(text)
    assert plain_cell(cell) == text
    assert not cell.lstrip().startswith(("=", "+", "-", "@"))
    assert cell.isprintable()
    cell.encode()


def test_one_patient_in_many_spellings_has_one_key(tmp_path, make_dicom, picture):
    rows = ["file,Effusion"]
    spellings = ["P-1", "P-1 ", " P-1", "P-1\0", "P-1 \0"]
    for number, spelling in enumerate(spellings):
        make_dicom(tmp_path / "images" / f"{number}.dcm", np.roll(picture, number, axis=0), PatientID=spelling)
        rows.append(f"{number}.dcm,{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "salt").write_bytes(b"0123456789abcdef")
    summary = prepare(
        PrepareSettings(
            source="dicom",
            images=tmp_path / "images",
            labels=tmp_path / "labels.csv",
            out=tmp_path / "store",
            salt_file=tmp_path / "salt",
            workers=0,
        )
    )
    assert (summary.images, summary.patients) == (5, 1)
    (key,) = set(pd.read_parquet(tmp_path / "store" / "manifest.parquet")["patient_key"])
    assert key == keyed_hash(b"0123456789abcdef", "patient", "P-1")


def test_names_that_climb_out_of_a_folder_stay_where_they_are(tmp_path, make_dicom, picture):
    """Label keys, identifiers and UIDs with ``../`` name no file of ours."""
    make_dicom(
        tmp_path / "in" / "images" / "x.dcm", picture, PatientID="../../escaped", StudyInstanceUID="../../../escaped"
    )
    (tmp_path / "in" / "labels.csv").write_text("file,Effusion\n../in/images/x.dcm,1\n../../escaped,0\n")
    (tmp_path / "in" / "salt").write_bytes(b"0123456789abcdef")
    prepare(
        PrepareSettings(
            source="dicom",
            images=tmp_path / "in" / "images",
            labels=tmp_path / "in" / "labels.csv",
            out=tmp_path / "in" / "store",
            salt_file=tmp_path / "in" / "salt",
            workers=0,
        )
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert not list(tmp_path.rglob("*escaped*"))
