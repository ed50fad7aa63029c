"""Whatever the machine's style, the standard's path from stored values leads back to the picture."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from nc_medfl.data.synthetic import (
    DEFAULT_HOSPITALS,
    Person,
    ScannerStyle,
    draw_radiograph,
    make_radiograph_dicom,
    radiograph_dataset,
)
from nc_medfl.data.synthetic.scanner import expose

STYLES = {
    **{hospital.name: hospital.scanner for hospital in DEFAULT_HOSPITALS},
    "plain": ScannerStyle(),
    "implicit 14-bit inverted": ScannerStyle("DX", "MONOCHROME1", 14, "windows", "implicit"),
    "run length with a VOI LUT": ScannerStyle("CR", "MONOCHROME2", 12, "lut", "rle"),
    "inverted VOI LUT": ScannerStyle("DX", "MONOCHROME1", 12, "lut", "explicit"),
    "signed VOI LUT": ScannerStyle(bits=16, voi="lut", signed=True, slope=0.5, intercept=-2000.0),
    "signed sigmoid": ScannerStyle(bits=12, voi="sigmoid", signed=True, slope=2.0, intercept=10.0),
    "8-bit JPEG-LS": ScannerStyle("DX", "MONOCHROME1", 8, "window", "jpeg_ls"),
}
DECODE = {
    "1.2.840.10008.1.2.4.50": imagecodecs.jpeg8_decode,
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
}


def displayed(dataset: pydicom.Dataset) -> np.ndarray:
    """Modality LUT, VOI and polarity by pydicom, in [0, 1]; an outside reference."""
    decode = DECODE.get(str(dataset.file_meta.TransferSyntaxUID))
    if decode is None:
        stored = dataset.pixel_array
    else:
        stored = decode(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    units = apply_modality_lut(stored, dataset)
    if "VOILUTSequence" in dataset:
        units = np.round(units).astype(int)
    shown = np.asarray(apply_voi_lut(units, dataset), dtype=float)
    if "VOILUTSequence" in dataset:
        low, high = 0.0, 65535.0
    else:  # pydicom scales a window to all values that the stored range can mean
        bits, signed = dataset.BitsStored, dataset.PixelRepresentation
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], dtype=float)
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        low, high = ends * slope + intercept
    share = (shown - low) / (high - low)
    return 1.0 - share if dataset.PhotometricInterpretation == "MONOCHROME1" else share


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_display_leads_back_to_what_the_machine_saw(style: ScannerStyle, tmp_path: Path):
    picture = draw_radiograph(["Mass"], np.random.default_rng(1), size=96)
    dataset = radiograph_dataset(picture, style, Person("P1"), np.random.default_rng(2))
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    shown = displayed(pydicom.dcmread(tmp_path / "a.dcm"))
    seen = expose(picture, style, np.random.default_rng(2))
    # A sigmoid cannot show the outermost 2%; lossy JPEG keeps values to about 1% on average.
    tolerance = {"sigmoid": 0.022}.get(style.voi, 0.012 if style.coding == "jpeg" else 0.003)
    error = np.abs(shown - seen)
    assert error.mean() < tolerance
    assert error.max() < (0.12 if style.coding == "jpeg" else max(tolerance, 0.04 if style.voi == "lut" else 0.0))


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_files_are_valid_dicom(style: ScannerStyle, tmp_path: Path):
    make_radiograph_dicom(tmp_path / "a.dcm", findings=["Effusion"], style=style, seed=4, size=64)
    assert (tmp_path / "a.dcm").read_bytes()[128:132] == b"DICM"
    with pydicom.config.disable_value_validation():
        lenient = pydicom.dcmread(tmp_path / "a.dcm")
    pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
    try:
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        for element in dataset.iterall():  # raises where a value breaks the rules of its VR
            assert element.value is not None
    finally:
        pydicom.config.settings.reading_validation_mode = pydicom.config.WARN
    assert dataset == lenient
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert dataset.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID
    assert dataset.SOPInstanceUID.is_valid
    assert len({dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID}) == 3
    assert str(dataset.PatientName).startswith("SYNTHETIC^")
    assert (dataset.BodyPartExamined, dataset.ViewPosition, dataset.BurnedInAnnotation) == ("CHEST", "PA", "NO")
    assert dataset.HighBit == dataset.BitsStored - 1 < dataset.BitsAllocated


# Type 1 attributes of the modules of A.26 (digital X-ray) beyond those that every image has.
DX_TYPE_1 = [
    "PresentationIntentType",
    "ImagerPixelSpacing",
    "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "PresentationLUTShape",
    "LossyImageCompression",
    "BurnedInAnnotation",
    "PatientOrientation",
    "ImageLaterality",
    "AnatomicRegionSequence",
    "DetectorType",
    "WindowCenter",
    "ViewCodeSequence",
]


def test_digital_radiographs_carry_what_their_definition_demands(tmp_path: Path):
    for inverted in ("MONOCHROME1", "MONOCHROME2"):
        dataset = make_radiograph_dicom(tmp_path / "a.dcm", style=ScannerStyle("DX", inverted, 14), size=64)
        assert [name for name in DX_TYPE_1 if not dataset.get(name)] in ([], ["RescaleIntercept"])
        assert dataset.RescaleIntercept == 0
        assert dataset.PresentationLUTShape == ("INVERSE" if inverted == "MONOCHROME1" else "IDENTITY")


def test_oblong_pixels_keep_the_chest_in_shape(tmp_path: Path):
    dataset = make_radiograph_dicom(tmp_path / "a.dcm", style=ScannerStyle(aspect=1.25), size=100)
    assert (dataset.Rows, dataset.Columns) == (125, 100)
    height, width = dataset.PixelSpacing
    assert height * dataset.Rows == pytest.approx(width * dataset.Columns) == pytest.approx(400.0)


@pytest.mark.parametrize(
    "options",
    [
        {"modality": "DX", "signed": True},
        {"modality": "DX", "slope": 2.0},
        {"coding": "jpeg", "bits": 12},
        {"coding": "jpeg_ls", "bits": 12},
        {"coding": "rle", "signed": True},
    ],
)
def test_styles_that_the_standard_forbids_are_refused(options: dict):
    with pytest.raises(ValueError, match=r"."):
        ScannerStyle(**options)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        make_radiograph_dicom(tmp_path / name, findings=["Nodule"], seed=9, size=64)
    make_radiograph_dicom(tmp_path / "c", findings=["Nodule"], seed=10, size=64)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
