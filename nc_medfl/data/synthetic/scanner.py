"""The style of a hospital's machine: how a drawn picture becomes stored values in a valid DICOM file.

Whatever the style, modality LUT, VOI transformation and polarity (PS3.3 C.11) lead back to the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from nc_medfl.data.synthetic.anatomy import Field

#: Physical side of the drawn field, millimetres.
FIELD_MM = 400.0
#: Quality of lossy films, about what hospitals keep.
JPEG_QUALITY = 92

Stored = npt.NDArray[np.integer]
Coding = Literal["implicit", "explicit", "rle", "jpeg_ls", "jpeg_2000", "jpeg"]

_SYNTAX: dict[str, Any] = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg_ls": JPEGLSLossless,
    "jpeg_2000": JPEG2000Lossless,
    "jpeg": JPEGBaseline8Bit,
}


@dataclass(frozen=True)
class ScannerStyle:
    """How one hospital's machine writes films.

    Args:
        modality: ``CR``, or ``DX`` (for presentation).
        photometric: ``MONOCHROME2`` (high is bright) or ``MONOCHROME1`` (high is dark).
        bits: bits stored; 8 are kept in one byte, more in two.
        voi: how values become brightness: one ``window``, ``windows`` (two, the first is meant), a ``sigmoid``
            window, or a ``lut``.
        coding: transfer syntax.
        signed: two's complement values; only CR and only uncompressed or JPEG 2000.
        slope: rescale slope, for CR.
        intercept: rescale intercept, for CR.
        aspect: width over height of a pixel.
        gamma: contrast of the machine: below 1 dense parts spread, above 1 the lungs.
        noise: grain, as a share of the full range.
        maker: what stands as the manufacturer.
    """

    modality: Literal["CR", "DX"] = "CR"
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    bits: int = 12
    voi: Literal["window", "windows", "sigmoid", "lut"] = "window"
    coding: Coding = "explicit"
    signed: bool = False
    slope: float = 1.0
    intercept: float = 0.0
    aspect: float = 1.0
    gamma: float = 1.0
    noise: float = 0.015
    maker: str = "Synthetic"

    def __post_init__(self) -> None:
        if self.modality == "DX" and (self.signed or self.slope != 1.0 or self.intercept != 0.0):
            raise ValueError("a DX image is unsigned with rescale slope 1 and intercept 0 (PS3.3 C.8.11.3)")
        if self.coding == "jpeg" and (self.bits != 8 or self.signed):
            raise ValueError("JPEG baseline holds 8 unsigned bits")
        if self.coding in ("jpeg_ls", "jpeg_2000") and self.bits not in (8, 16):
            raise ValueError("the encoders used here write 8 or 16 bits a sample; set bits to one of them")
        if self.signed and self.coding not in ("implicit", "explicit", "jpeg_2000"):
            raise ValueError("signed values are written uncompressed or as JPEG 2000")


@dataclass(frozen=True)
class Person:
    """Who a file says it shows. Every one is invented."""

    patient_id: str
    name: str = "SYNTHETIC^0001"
    sex: str = "M"
    birth_year: int = 1974
    study_date: str = "20240101"
    view: str = "PA"
    entropy: tuple[str, ...] = ("nc_medfl synthetic",)
    study: int = 0
    accession: str = ""

    @property
    def age(self) -> int:
        """Whole years on the day of the study; every birthday is the first of January."""
        return int(self.study_date[:4]) - self.birth_year

    def uid(self, kind: str) -> str:
        """The UID of the ``study``, ``series`` or ``instance``; the same person and study give the same."""
        return str(generate_uid(entropy_srcs=[*self.entropy, self.patient_id, str(self.study), kind]))


def expose(picture: Field, style: ScannerStyle, rng: np.random.Generator) -> Field:
    """What the machine sees of a picture: its pixel shape, contrast and grain; float32 in [0, 1]."""
    seen = picture
    if style.aspect != 1.0:  # the shorter side keeps the drawn size
        size = picture.shape[0]
        rows, columns = round(size * max(1.0, style.aspect)), round(size * max(1.0, 1.0 / style.aspect))
        seen = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_LINEAR)
    exposure = float(rng.normal(1.0, 0.03))
    seen = np.power(np.clip(seen * exposure, 0.0, 1.0), style.gamma * float(rng.uniform(0.95, 1.05)))
    # Quantum noise: dense parts let fewer photons through, so they are grainier.
    grain = style.noise * (0.4 + seen) * rng.standard_normal(seen.shape, dtype=np.float32)
    exposed: Field = np.clip(seen + grain, 0.0, 1.0).astype(np.float32)
    return exposed


def radiograph_dataset(picture: Field, style: ScannerStyle, person: Person, rng: np.random.Generator) -> Dataset:
    """Put a picture into a DICOM data set with file meta information.

    Args:
        picture: float32 ``[size, size]`` in [0, 1], bone bright.
        style: the machine.
        person: the invented patient and study.
        rng: exposure and grain.

    Returns:
        A CR (PS3.3 A.2) or DX for presentation (A.26) image.
    """
    seen = expose(picture, style, rng)
    dataset = Dataset()
    _identify(dataset, style, person)
    stored = _store(dataset, seen, style, rng)
    dataset.Rows, dataset.Columns = stored.shape
    _describe(dataset, style, person)
    _pixels(dataset, stored, style)
    return dataset


def write_dicom(path: Path, dataset: Dataset) -> None:
    """Write a data set as a DICOM file (PS3.10) with preamble and file meta information."""
    dataset.save_as(path, enforce_file_format=True)


def _identify(dataset: Dataset, style: ScannerStyle, person: Person) -> None:
    sop_class = ComputedRadiographyImageStorage if style.modality == "CR" else DigitalXRayImageStorageForPresentation
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = person.uid("instance")
    meta.TransferSyntaxUID = _SYNTAX[style.coding]
    dataset.file_meta = meta
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = person.uid("instance")
    dataset.StudyInstanceUID = person.uid("study")
    dataset.SeriesInstanceUID = person.uid("series")
    dataset.PatientName = person.name
    dataset.PatientID = person.patient_id
    dataset.PatientSex = person.sex
    dataset.PatientAge = f"{person.age:03d}Y"
    dataset.PatientBirthDate = f"{person.birth_year}0101"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = person.study_date
    dataset.StudyTime = dataset.ContentTime = dataset.AcquisitionTime = "120000"
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = str(person.study + 1)
    dataset.AccessionNumber = person.accession
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1


def _describe(dataset: Dataset, style: ScannerStyle, person: Person) -> None:
    dataset.Modality = style.modality
    dataset.Manufacturer = style.maker
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = person.view
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.BurnedInAnnotation = "NO"
    spacing = [FIELD_MM / dataset.Rows, FIELD_MM / dataset.Columns]
    spacing = [float(f"{mm:.6g}") for mm in spacing]
    lossy = style.coding == "jpeg"
    dataset.LossyImageCompression = "01" if lossy else "00"
    if lossy:
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
    if style.modality == "CR":
        dataset.PixelSpacing = spacing
        return
    dataset.ImagerPixelSpacing = spacing
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1 if style.photometric == "MONOCHROME1" else 1
    dataset.PresentationLUTShape = "INVERSE" if style.photometric == "MONOCHROME1" else "IDENTITY"
    dataset.DetectorType = "DIRECT"
    dataset.ImageLaterality = "U"
    dataset.AnatomicRegionSequence = DicomSequence([_code("43799004", "SCT", "Thorax")])
    view = ("399348003", "antero-posterior") if person.view == "AP" else ("272479007", "postero-anterior")
    dataset.ViewCodeSequence = DicomSequence([_code(view[0], "SCT", view[1])])
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = DicomSequence([])
    dataset.AcquisitionContextSequence = DicomSequence([])


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _store(dataset: Dataset, seen: Field, style: ScannerStyle, rng: np.random.Generator) -> Stored:
    """Stored values, and the tags that lead from them back to brightness."""
    bright = 1.0 - seen if style.photometric == "MONOCHROME1" else seen
    low, high = _stored_range(style)
    span = high - low
    # A machine keeps more than it shows: the shown part lies somewhere inside the range, another place each time.
    bottom = low + span * (0.0 if style.bits == 8 else float(rng.uniform(0.05, 0.20)))
    top = high - span * (0.0 if style.bits == 8 else float(rng.uniform(0.05, 0.20)))
    bottom, top = float(round(bottom)), float(round(top))
    if style.voi == "lut":
        values = _table(dataset, bright, bottom, top, style)
    else:
        values = _window(dataset, bright, bottom, top, style)
    _rescale(dataset, style)
    stored: Stored = np.clip(np.round(values), low, high).astype(_dtype(style))
    return stored


def _stored_range(style: ScannerStyle) -> tuple[int, int]:
    return (-(2 ** (style.bits - 1)), 2 ** (style.bits - 1) - 1) if style.signed else (0, 2**style.bits - 1)


def _dtype(style: ScannerStyle) -> np.dtype[Any]:
    width = 1 if style.bits == 8 else 2
    return np.dtype(f"{'<i' if style.signed else '<u'}{width}")


def _rescale(dataset: Dataset, style: ScannerStyle) -> None:
    if style.modality == "DX" or (style.slope, style.intercept) != (1.0, 0.0):
        dataset.RescaleSlope = style.slope
        dataset.RescaleIntercept = style.intercept
        dataset.RescaleType = "US"


def _window(
    dataset: Dataset, bright: Field, bottom: float, top: float, style: ScannerStyle
) -> npt.NDArray[np.floating]:
    """Invert the VOI LUT functions of PS3.3 C.11.2.1.2 and C.11.2.1.3.1."""
    middle, width = (bottom + top) / 2.0, top - bottom
    if style.voi == "sigmoid":
        width /= 2.0  # the curve needs room on both sides of its window
        share = np.clip(bright, 0.02, 0.98).astype(np.float64)
        values = middle + width / 4.0 * np.log(share / (1.0 - share))
        dataset.VOILUTFunction = "SIGMOID"
    else:
        # LINEAR maps (c - 0.5) - (w - 1) / 2 to the darkest and (c - 0.5) + (w - 1) / 2 to the brightest.
        values = bottom + (bright.astype(np.float64) * (top - bottom))
        width += 1.0 / abs(style.slope)
        middle += 0.5 / style.slope
    centre, span = style.slope * middle + style.intercept, abs(style.slope) * width
    centres, spans, names = [centre], [span], ["NORMAL"]
    if style.voi == "windows" or style.voi == "sigmoid":
        centres, spans, names = [centre, centre], [span, 0.6 * span], ["NORMAL", "HARDER"]
    dataset.WindowCenter = [float(f"{c:.8g}") for c in centres]
    dataset.WindowWidth = [float(f"{w:.8g}") for w in spans]
    dataset.WindowCenterWidthExplanation = names
    return values


def _table(dataset: Dataset, bright: Field, bottom: float, top: float, style: ScannerStyle) -> npt.NDArray[np.floating]:
    """A VOI LUT of 1,024 entries or fewer with a square-root curve, and values that it maps back."""
    entries = int(min(1024, top - bottom + 1))
    curve = np.round(65535 * np.sqrt(np.linspace(0.0, 1.0, entries))).astype("<u2")
    item = Dataset()
    first = round(style.slope * bottom + style.intercept)
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [entries, first, 16])
    item.add_new("LUTData", "OW", curve.tobytes())
    item.LUTExplanation = "NORMAL"
    dataset.VOILUTSequence = DicomSequence([item])
    steps = bright.astype(np.float64) ** 2 * (entries - 1)
    return (first + steps - style.intercept) / style.slope


def _pixels(dataset: Dataset, stored: Stored, style: ScannerStyle) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = style.photometric
    dataset.BitsAllocated = 8 if style.bits == 8 else 16
    dataset.BitsStored = style.bits
    dataset.HighBit = style.bits - 1
    dataset.PixelRepresentation = int(style.signed)
    raw = stored.tobytes()
    if style.coding in ("implicit", "explicit"):
        dataset.add_new("PixelData", "OW" if dataset.BitsAllocated == 16 else "OB", raw + b"\0" * (len(raw) % 2))
        return
    if style.coding == "rle":
        dataset.add_new("PixelData", "OW", raw)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        return
    frame = _encode(stored, style.coding)
    if style.coding == "jpeg":
        dataset.LossyImageCompressionRatio = float(f"{len(raw) / len(frame):.4g}")
    dataset.add_new("PixelData", "OB", encapsulate([frame]))
    dataset["PixelData"].is_undefined_length = True


def _encode(stored: Stored, coding: Coding) -> bytes:
    if coding == "jpeg":
        return bytes(imagecodecs.jpeg8_encode(stored, level=JPEG_QUALITY))
    if coding == "jpeg_ls":
        return bytes(imagecodecs.jpegls_encode(stored, level=0))
    return bytes(imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, codecformat="j2k", numthreads=1))
