"""De-identified DICOM: nothing planted in an original comes out, and pixels and intervals are kept."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import UID, generate_uid

from nc_medfl.data.dicom.reader import read_bytes
from nc_medfl.data.export.dicom import export_dicom
from nc_medfl.data.export.elements import age_string, decimal_string, uid_of
from nc_medfl.data.prepare import prepare
from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.store import Store, open_store
from nc_medfl.errors import UserError

SALT = b"0123456789abcdef"
MARKER = "QZXMARKER"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"


def prepared(hospital: Path) -> Store:
    """A store of all DICOM files in ``hospital/images``."""
    names = sorted(
        p.relative_to(hospital / "images").as_posix() for p in (hospital / "images").rglob("*") if p.is_file()
    )
    rows = [f"{name},{number % 2}" for number, name in enumerate(names)]
    (hospital / "labels.csv").write_text("\n".join(["file,Effusion", *rows]) + "\n")
    (hospital / "salt").write_bytes(SALT)
    prepare(
        PrepareSettings(
            source="dicom",
            images=hospital / "images",
            labels=hospital / "labels.csv",
            out=hospital / "store",
            salt_file=hospital / "salt",
            image_column="file",
            size=32,
            workers=0,
        )
    )
    return open_store(hospital / "store")


@pytest.fixture
def two_visits(tmp_path, make_dicom, picture) -> Store:
    """Two patients; the first came twice, 30 days apart."""
    visits = [("A", "20200131"), ("A", "20200301"), ("B", "20200131")]
    for number, (patient, day) in enumerate(visits):
        make_dicom(
            tmp_path / "images" / f"{number}.dcm",
            picture + np.uint16(number),
            PatientID=patient,
            StudyDate=day,
            PatientBirthDate="19600101",
            SeriesInstanceUID=generate_uid(),
        )
    return prepared(tmp_path)


def exported(folder: Path) -> dict[str, Dataset]:
    return {path.stem: pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))}


def plant(dataset: Dataset, marker: str) -> None:
    """Put a marker into one element of every text VR, and into every well-known identifying one."""
    by_vr = {"SH": 16, "LO": 64, "ST": 400, "LT": 400, "UT": 400, "PN": 64, "AE": 16, "UC": 60, "UR": 60, "CS": 16}
    for keyword in pydicom.datadict.keyword_dict:
        tag = pydicom.datadict.tag_for_keyword(keyword)
        vr = pydicom.datadict.dictionary_VR(tag)
        if vr in by_vr and keyword not in dataset and tag >> 16 not in (0, 2, 4, 0x5400):
            dataset.add_new(tag, vr, f"{marker}{tag:08X}"[: by_vr[vr]])
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "PatientBirthDate"):
        setattr(dataset, keyword, "19810731")


def hostile(picture: np.ndarray) -> Dataset:
    """A chest radiograph with the marker in every place that there is."""
    from pydicom.dataset import FileMetaDataset

    raw = picture.astype("<u2")
    jpeg = imagecodecs.jpeg8_encode(raw, lossless=True, predictor=1, bitspersample=16)
    comment = f"{MARKER}-in-a-comment".encode()
    jpeg = jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(JPEG_LOSSLESS)
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.826.0.1.3680043.8.498.4711")
    dataset.file_meta.SourceApplicationEntityTitle = MARKER
    dataset.file_meta.ImplementationVersionName = MARKER
    dataset.file_meta.PrivateInformationCreatorUID = UID("1.2.826.0.1.3680043.8.498.4712")
    dataset.file_meta.PrivateInformation = f"{MARKER}-private-information".encode()
    dataset.preamble = MARKER.encode().ljust(128, b"\0")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.4713"
    dataset.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.4714"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.PatientSex, dataset.PatientAge = "F", "062Y"
    dataset.PatientID = f"{MARKER}-id"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = raw.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.WindowCenter, dataset.WindowWidth, dataset.PixelSpacing = 2000, 3000, [0.2, 0.2]
    plant(dataset, MARKER)
    for keyword in ("BurnedInAnnotation", "VOILUTFunction", "PresentationLUTShape", "LossyImageCompression"):
        delattr(dataset, keyword)
    inner = Dataset()
    plant(inner, MARKER)
    block = inner.private_block(0x0029, MARKER, create=True)
    block.add_new(1, "LT", f"{MARKER}-nested-private")
    deeper = Dataset()
    plant(deeper, MARKER)
    inner.ReferencedImageSequence = [deeper]
    for keyword in ("RequestAttributesSequence", "ReferencedStudySequence", "ViewCodeSequence", "IconImageSequence"):
        setattr(dataset, keyword, [inner])
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 0, 8])
    table.LUTExplanation = MARKER
    table.add_new("LUTData", "OW", f"{MARKER}.".encode())
    dataset.ModalityLUTSequence = []
    block = dataset.private_block(0x0011, MARKER, create=True)
    block.add_new(1, "LO", f"{MARKER}-private")
    block.add_new(2, "UN", f"{MARKER}-unknown".encode())
    for group in (0x6000, 0x6002):
        dataset.add_new((group, 0x0010), "US", 8)
        dataset.add_new((group, 0x0011), "US", 8)
        dataset.add_new((group, 0x0022), "LO", MARKER)
        dataset.add_new((group, 0x1500), "LO", MARKER)
        dataset.add_new((group, 0x3000), "OW", f"{MARKER}.".encode())
    dataset.add_new((0x5000, 0x3000), "OW", f"{MARKER}.".encode())
    dataset.add_new((0xFFFC, 0xFFFC), "OB", f"{MARKER}.".encode())
    dataset.PixelData = encapsulate([jpeg + b"\0" * (len(jpeg) % 2)])
    dataset["PixelData"].VR = "OB"
    return dataset


@pytest.mark.parametrize("shift_dates", [False, True])
def test_no_marker_planted_in_an_original_comes_out(tmp_path, picture, shift_dates):
    folder = tmp_path / "images" / f"{MARKER}folder"
    folder.mkdir(parents=True)
    path = folder / f"{MARKER}file.dcm"
    hostile(picture).save_as(path, enforce_file_format=True)
    original = path.read_bytes()
    # The planting worked: hundreds of elements, the comment in the pixel data and the preamble.
    assert original.count(MARKER.encode()) > 500
    assert b"-in-a-comment" in original
    assert original.startswith(MARKER.encode())
    store = prepared(tmp_path)
    assert len(store) == 1
    summary = export_dicom(store, SALT, shift_dates=shift_dates)
    assert summary.images == 1
    secrets = [MARKER, "19810731", "1981-07-31", "1.2.826.0.1.3680043.8.498.471", str(tmp_path)]
    for made in sorted(summary.folder.rglob("*")):
        content = made.read_bytes()
        for secret in secrets:
            for form in (secret.encode(), secret.encode("utf-16-le"), secret.encode("utf-16-be")):
                assert form not in content, f"{secret} in {made.name}"
            assert secret not in made.name
        assert MARKER.lower().encode() not in content.lower()
    (dataset,) = exported(summary.folder).values()
    assert dataset.preamble == bytes(128)
    assert not any(element.tag.is_private or element.tag.group & 0xFF00 in (0x5000, 0x6000) for element in dataset)


def test_pixels_are_the_originals_to_pydicom_and_show_the_same(two_visits):
    sources = csv.DictReader(io.StringIO((two_visits.folder / "site_private" / "sources.csv").read_text()))
    path_of = {row["sample_id"]: Path(row["path"]) for row in sources}
    made = exported(export_dicom(two_visits, SALT).folder)
    assert set(made) == set(two_visits.manifest["sample_id"])
    for position, sample in enumerate(two_visits.manifest["sample_id"]):
        np.testing.assert_array_equal(made[sample].pixel_array, pydicom.dcmread(path_of[sample]).pixel_array)
        path = two_visits.folder / "export" / "dicom" / f"{sample}.dcm"
        square, _ = read_bytes(path.read_bytes()).picture.fit(two_visits.size)
        np.testing.assert_array_equal(square, two_visits.image(position))


def test_what_an_objects_definition_wants_is_there_and_no_distance_of_nothing(tmp_path, make_dicom, picture):
    # Type 2 attributes that PS3.3 wants in a CR series and a DX image; dciodvfy of dicom3tools found them missing.
    kinds = {"CR": "1.2.840.10008.5.1.4.1.1.1", "DX": "1.2.840.10008.5.1.4.1.1.1.1"}
    for number, (modality, kind) in enumerate(kinds.items()):
        path = make_dicom(
            tmp_path / "images" / f"{modality}.dcm", picture + np.uint16(number), PixelSpacing=[0, 0], Modality=modality
        )
        original = pydicom.dcmread(path)
        original.ImagerPixelSpacing, original.ViewPosition = [0.2, 0.2], None
        original.SOPClassUID = original.file_meta.MediaStorageSOPClassUID = UID(kind)
        original.save_as(path)
    by_modality = {d.Modality: d for d in exported(export_dicom(prepared(tmp_path), SALT).folder).values()}
    computed, digital = by_modality["CR"], by_modality["DX"]
    assert "PixelSpacing" not in computed
    assert [float(side) for side in computed.ImagerPixelSpacing] == [0.2, 0.2]
    assert "ViewPosition" in computed
    assert "DetectorType" not in computed
    assert (digital.ViewPosition, digital.DetectorType, digital.PositionerType) == ("", "", "")
    assert list(digital.AcquisitionContextSequence) == []
    (region,) = digital.AnatomicRegionSequence
    assert (region.CodingSchemeDesignator, region.CodeValue) == ("SCT", codes.SCT.Chest.value)


def test_dates_are_dropped_by_default_and_the_header_says_how(two_visits):
    for dataset in exported(export_dicom(two_visits, SALT).folder).values():
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.LongitudinalTemporalInformationModified == "REMOVED"
        applied = {(item.CodeValue, item.CodingSchemeDesignator) for item in dataset.DeidentificationMethodCodeSequence}
        expected = (codes.DCM.BasicApplicationConfidentialityProfile, codes.DCM.RetainPatientCharacteristicsOption)
        assert applied == {(code.value, code.scheme_designator) for code in expected}
        meanings = {item.CodeMeaning for item in dataset.DeidentificationMethodCodeSequence}
        assert meanings == {code.meaning for code in expected}
        assert all(len(method) <= 64 for method in dataset.DeidentificationMethod)
        dates = [e for e in dataset if e.VR in ("DA", "DT", "TM") and e.value]
        assert dates == []
        assert (dataset.PatientSex, dataset.PatientAge) == ("F", "062Y")
        assert "SourceApplicationEntityTitle" not in dataset.file_meta


def test_shifted_dates_keep_the_intervals_of_a_patient_and_nothing_else(two_visits):
    made = exported(export_dicom(two_visits, SALT, shift_dates=True).folder)
    by_patient: dict[str, list[datetime]] = {}
    for dataset in made.values():
        assert dataset.LongitudinalTemporalInformationModified == "MODIFIED"
        assert codes.DCM.RetainLongitudinalTemporalInformationModifiedDatesOption.value in {
            item.CodeValue for item in dataset.DeidentificationMethodCodeSequence
        }
        by_patient.setdefault(dataset.PatientID, []).append(datetime.strptime(dataset.StudyDate, "%Y%m%d"))
    twice = next(sorted(days) for days in by_patient.values() if len(days) == 2)
    (once,) = next(days for days in by_patient.values() if len(days) == 1)
    # From 31 January to 1 March of a leap year.
    assert (twice[1] - twice[0]).days == 30
    first = datetime(2020, 1, 31)
    assert 0 < abs((twice[0] - first).days) <= 365
    assert 0 < abs((once - first).days) <= 365
    assert once != twice[0]


def test_keyed_uids_are_valid_keep_equality_and_need_the_salt():
    uid = "1.2.840.113619.2.5.1762583153"
    keyed = uid_of(SALT, uid)
    assert UID(keyed).is_valid
    assert len(keyed) <= 64
    assert keyed.startswith("2.25.")
    assert keyed == uid_of(SALT, uid) != uid_of(b"another secret of 16 bytes", uid)
    assert keyed != uid_of(SALT, uid + ".1")


def test_images_of_one_study_stay_in_one_study(tmp_path, make_dicom, picture):
    study = generate_uid()
    for number in range(2):
        make_dicom(tmp_path / "images" / f"{number}.dcm", picture + np.uint16(number), StudyInstanceUID=study)
    make_dicom(tmp_path / "images" / "other.dcm", picture + np.uint16(9))
    made = exported(export_dicom(prepared(tmp_path), SALT).folder)
    studies = [dataset.StudyInstanceUID for dataset in made.values()]
    assert sorted(studies.count(uid) for uid in set(studies)) == [1, 2]
    assert study not in studies
    assert len({dataset.SOPInstanceUID for dataset in made.values()}) == 3


def test_an_export_is_resumed_and_repeats_to_the_byte(two_visits):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_dicom(two_visits, SALT, progress=stop)
    summary = export_dicom(two_visits, SALT)
    assert (summary.images, summary.written) == (3, 2)
    first = {path.name: path.read_bytes() for path in summary.folder.iterdir()}
    assert export_dicom(two_visits, SALT).written == 0
    assert {path.name: path.read_bytes() for path in summary.folder.iterdir()} == first


def test_originals_are_found_from_another_folder_than_they_were_prepared_in(tmp_path, make_dicom, picture, monkeypatch):
    make_dicom(tmp_path / "images" / "0.dcm", picture)
    monkeypatch.chdir(tmp_path)
    prepared(Path())
    monkeypatch.chdir("/")
    assert export_dicom(open_store(tmp_path / "store"), SALT).written == 1


def test_a_changed_or_missing_original_is_an_error_without_its_name(two_visits, tmp_path):
    path = tmp_path / "images" / "1.dcm"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"\0\1")
    with pytest.raises(UserError, match="is not the file that was prepared") as caught:
        export_dicom(two_visits, SALT)
    assert "1.dcm" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read") as caught:
        export_dicom(two_visits, SALT)
    assert "1.dcm" not in str(caught.value)


def test_a_store_without_its_list_of_sources_can_not_be_exported(two_visits):
    (two_visits.folder / "site_private" / "sources.csv").unlink()
    with pytest.raises(UserError, match=r"has no site_private/sources\.csv"):
        export_dicom(two_visits, SALT)


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"RescaleSlope": -1, "RescaleIntercept": 4095, "WindowCenter": 2000, "WindowWidth": 2500},
        {"PixelPaddingValue": 0, "WindowCenter": [2000, 100], "WindowWidth": [2500, 50]},
        {"BitsStored": 12, "HighBit": 11, "VOILUTFunction": "SIGMOID", "WindowCenter": 2000, "WindowWidth": 2500},
    ],
)
def test_a_picture_looks_as_its_original_does(tmp_path, make_dicom, picture, elements: dict[str, Any]):
    path = make_dicom(tmp_path / "images" / "one.dcm", picture, PatientID="A", **elements)
    make_dicom(tmp_path / "images" / "two.dcm", picture[::-1].copy(), PatientID="B")
    store = prepared(tmp_path)
    summary = export_dicom(store, SALT)
    shown = read_bytes(path.read_bytes()).pixels
    assert any(np.array_equal(read_bytes(made.read_bytes()).pixels, shown) for made in summary.folder.glob("*.dcm"))


@pytest.mark.parametrize(("years", "text"), [(62.0, "062Y"), (90.0, "090Y"), (0.5, "006M"), (float("nan"), "")])
def test_an_age_is_written_as_dicom_does(years, text):
    assert age_string(years) == text


@pytest.mark.parametrize("number", [0.1, 1 / 3, -1e-7, 123456789012345678.0, 4095.0, -0.000123456789])
def test_a_decimal_string_fits_its_sixteen_characters(number):
    text = decimal_string(number)
    assert len(text) <= 16
    assert float(text) == pytest.approx(number, rel=1e-8)
