"""The whitelist of elements of an exported DICOM file, and the attributes that say how it was de-identified.

A new data set is built; every value is a number, a term of a closed list, or made from the manifest. Terms are
those of PS3.3 (C.7.3.1, C.7.6.1, C.8.11) and PS3.16 (CID 7050 for the methods).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, ExplicitVRLittleEndian

from nc_medfl import __version__
from nc_medfl.data.dicom.deidentify import integer, numbers, text, value
from nc_medfl.data.dicom.display import read_lut
from nc_medfl.data.dicom.reader import DEFAULT_POLICY
from nc_medfl.data.manifest import keyed_hash

_COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
_DIGITAL_X_RAY = f"{_COMPUTED_RADIOGRAPHY}.1"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_STORAGE = "1.2.840.10008.5.1.4.1.1."

#: Closed lists of code strings that are copied.
_TERMS: dict[str, frozenset[str]] = {
    "PresentationIntentType": frozenset({"FOR PRESENTATION", "FOR PROCESSING"}),
    "PixelIntensityRelationship": frozenset({"LIN", "LOG", "DISP"}),
    "PresentationLUTShape": frozenset({"IDENTITY", "INVERSE", "LIN OD"}),
    "VOILUTFunction": frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"}),
    "RescaleType": frozenset({"OD", "HU", "US", "HU_MOD"}),
    "ImageLaterality": frozenset({"R", "L", "U", "B"}),
    "Laterality": frozenset({"R", "L"}),
    "BurnedInAnnotation": frozenset({"NO"}),
    "LossyImageCompression": frozenset({"00", "01"}),
    "LossyImageCompressionMethod": frozenset({"ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_13818_2"}),
    "ViewPosition": frozenset({"PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LATERAL", "LAT", "L LAT", "R LAT"}),
}
#: Numbers that are copied, with the most values that make sense.
_NUMBERS = {
    "PixelSpacing": 2,
    "ImagerPixelSpacing": 2,
    "NominalScannedPixelSpacing": 2,
    "RescaleSlope": 1,
    "RescaleIntercept": 1,
    "WindowCenter": 8,
    "WindowWidth": 8,
    "EstimatedRadiographicMagnificationFactor": 1,
    "LossyImageCompressionRatio": 4,
}
_DIRECTION = re.compile(r"[LRAPHF]{1,3}")

#: SNOMED CT code and meaning of the body parts that are taken, by what their name holds (PS3.16 CID 4).
_REGIONS = {
    "SPINE": ("122495006", "Thoracic spine"),
    "LUNG": ("39607008", "Lung"),
    "RIB": ("113197003", "Rib"),
    "CHEST": ("816094009", "Thorax"),
    "THORAX": ("816094009", "Thorax"),
}
#: Code Meaning by Code Value (PS3.16 CID 7050) of what is applied.
_BASIC, _MODIFIED_DATES, _CHARACTERISTICS = "113100", "113107", "113108"
_METHODS = {
    _BASIC: "Basic Application Confidentiality Profile",
    _MODIFIED_DATES: "Retain Longitudinal Temporal Information Modified Dates Option",
    _CHARACTERISTICS: "Retain Patient Characteristics Option",
}


def uid_of(salt: bytes, original: str) -> str:
    """The keyed UID in place of an original one: 2.25 and a 128-bit number (PS3.5 B.2), by HMAC-SHA256.

    Equal UIDs stay equal, so that references hold.
    """
    return f"2.25.{int(keyed_hash(salt, 'uid', original), 16)}"


def clean_dataset(original: Dataset, stored: npt.NDArray[np.generic], row: Mapping[Any, Any]) -> Dataset:
    """A new data set with what is known to be harmless, and still with the original UIDs (to be keyed next).

    Args:
        original: what was parsed.
        stored: its decoded values ``[rows, cols]``.
        row: its line of the manifest.
    """
    clean = Dataset()
    _identify(clean, original, row)
    _describe(clean, original, row)
    _pixels(clean, original, stored)
    _grey_scale(clean, original)
    return clean


def _identify(clean: Dataset, original: Dataset, row: Mapping[Any, Any]) -> None:
    fallback = str(row["source_sha256"])
    instance = text(original, "SOPInstanceUID") or fallback
    clean.SOPClassUID = _sop_class(text(original, "SOPClassUID"))
    clean.SOPInstanceUID = instance
    clean.StudyInstanceUID = text(original, "StudyInstanceUID") or instance
    clean.SeriesInstanceUID = text(original, "SeriesInstanceUID") or f"series of {instance}"
    clean.PatientID = str(row["patient_key"])
    # Type 2: must be there, may be empty.
    for keyword in ("PatientName", "PatientBirthDate", "StudyTime", "StudyID", "AccessionNumber", "Manufacturer"):
        setattr(clean, keyword, "")
    clean.ReferringPhysicianName = ""
    clean.SeriesNumber, clean.InstanceNumber = None, None


def _sop_class(uid: str) -> str:
    """A storage class of the standard as it is; anything else is a secondary capture."""
    return uid if uid.startswith(_STORAGE) and UID(uid).name != uid else _SECONDARY_CAPTURE


def _describe(clean: Dataset, original: Dataset, row: Mapping[Any, Any]) -> None:
    # Numbers and terms of the manifest have been through its own whitelist.
    clean.Modality = _known(row["modality"]) or "OT"
    clean.PatientSex = _known(row["sex"])
    clean.PatientAge = age_string(row["age"])
    part = re.sub(r"[^A-Z]", "", text(original, "BodyPartExamined").upper())
    clean.BodyPartExamined = part if part in DEFAULT_POLICY.body_parts else ""
    clean.ConversionType = "DI" if clean.SOPClassUID == _SECONDARY_CAPTURE else None
    if clean.ConversionType is None:
        del clean.ConversionType
    kind = [str(term).upper() for term in value(original, "ImageType") or [] if isinstance(term, str)][:2]
    derived = "ORIGINAL" if kind[:1] == ["ORIGINAL"] else "DERIVED"
    clean.ImageType = [derived, "SECONDARY" if kind[1:] == ["SECONDARY"] else "PRIMARY"]
    directions = [str(term) for term in value(original, "PatientOrientation") or [] if isinstance(term, str)]
    usable = len(directions) == 2 and all(_DIRECTION.fullmatch(term) for term in directions)
    clean.PatientOrientation = directions if usable else ""
    for keyword, terms in _TERMS.items():
        if (term := " ".join(text(original, keyword).upper().split())) in terms:
            setattr(clean, keyword, term)
    lossy = row["lossy"]
    if isinstance(lossy, (bool, np.bool_)) and lossy:
        clean.LossyImageCompression = "01"


def _known(term: object) -> str:
    return term if isinstance(term, str) else ""


def age_string(years: object) -> str:
    """An age as DICOM writes it: ``062Y``, months below two years; empty where it isn't known."""
    if not isinstance(years, (int, float)) or math.isnan(years):
        return ""
    return f"{int(years):03d}Y" if years >= 2 else f"{int(years * 12):03d}M"


def _pixels(clean: Dataset, original: Dataset, stored: npt.NDArray[np.generic]) -> None:
    signed = integer(original, "PixelRepresentation") == 1
    allocated = integer(original, "BitsAllocated") or 16
    bits = integer(original, "BitsStored") or allocated
    clean.Rows, clean.Columns = stored.shape
    clean.SamplesPerPixel = 1
    clean.PhotometricInterpretation = text(original, "PhotometricInterpretation")
    # Decoded values begin at bit 0, wherever they stood.
    clean.BitsAllocated, clean.BitsStored, clean.HighBit = allocated, bits, bits - 1
    clean.PixelRepresentation = int(signed)
    content = np.ascontiguousarray(stored, dtype=f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    clean.add_new("PixelData", "OB" if allocated == 8 else "OW", content + b"\0" * (len(content) % 2))
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        padding = integer(original, keyword)
        if padding is not None:
            pattern = padding % 2**16
            number = pattern - 2**16 if signed and pattern >= 2**15 else pattern
            clean.add_new(keyword, "SS" if signed else "US", number)
    sign = integer(original, "PixelIntensityRelationshipSign")
    if sign in (-1, 1):
        clean.add_new("PixelIntensityRelationshipSign", "SS", sign)


def _grey_scale(clean: Dataset, original: Dataset) -> None:
    for keyword, most in _NUMBERS.items():
        found = numbers(original, keyword)[:most]
        # A distance of 0, as some write where they know none, isn't one.
        if found and not (keyword.endswith("Spacing") and min(found) <= 0):
            texts = [decimal_string(number) for number in found]
            setattr(clean, keyword, texts if len(texts) > 1 else texts[0])
    ratio = numbers(original, "PixelAspectRatio")[:2]
    if len(ratio) == 2:
        clean.PixelAspectRatio = [str(int(number)) for number in ratio]
    _tables(clean, original, "ModalityLUTSequence")
    _tables(clean, original, "VOILUTSequence")
    if value(original, "VOILUTSequence"):
        # The reader falls back to percentiles where a table is unusable, so a window must not step in.
        for keyword in ("WindowCenter", "WindowWidth"):
            if keyword in clean:
                delattr(clean, keyword)


def _tables(clean: Dataset, original: Dataset, keyword: str) -> None:
    """Look-up tables as numbers; explanations and types in words are left out."""
    encoding = getattr(original, "original_encoding", (None, True))
    signed = integer(original, "PixelRepresentation") == 1
    items = []
    for item in _items(original, keyword):
        # A VOI LUT's first input may be negative where the modality transformation makes it so: kept as written.
        lut = read_lut(item, encoding[1] is not False, signed_input=False)
        descriptor = numbers(item, "LUTDescriptor")
        if lut is None:
            continue
        table = Dataset()
        first = int(descriptor[1]) % 2**16
        kind = "SS" if signed else "US"
        first = first - 2**16 if signed and first >= 2**15 else first
        entries = len(lut.data) % 2**16
        if signed and entries >= 2**15:
            entries -= 2**16
        table.add_new("LUTDescriptor", kind, [entries, first, int(descriptor[2])])
        table.add_new("LUTData", "OW", lut.data.astype("<u2").tobytes())
        if keyword == "ModalityLUTSequence":
            table.ModalityLUTType = "US"
        items.append(table)
    if items:
        setattr(clean, keyword, items)


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    found = value(dataset, keyword)
    try:
        return list(found or [])
    except TypeError:
        return []


def decimal_string(number: float) -> str:
    """A number of at most 16 characters (PS3.5 6.2, DS)."""
    whole = f"{number:.0f}" if number == int(number) and abs(number) < 1e15 else repr(number)
    digits = 15
    while len(whole) > 16:
        digits -= 1
        whole = f"{number:.{digits}g}"
    return whole


def required_attributes(dataset: Dataset) -> None:
    """Put in, empty, what the object's definition wants to be there and nothing harmless is known of (type 2).

    PS3.3 C.8.1.1 (CR series), C.8.11.2 to C.8.11.5 (DX), C.7.6.14 (acquisition context).
    """
    kind = str(dataset.SOPClassUID)
    digital = kind.startswith(_DIGITAL_X_RAY)
    if (kind == _COMPUTED_RADIOGRAPHY or digital) and "ViewPosition" not in dataset:
        dataset.ViewPosition = ""
    if not digital:
        return
    for keyword in ("DetectorType", "PositionerType"):
        setattr(dataset, keyword, "")
    dataset.AcquisitionContextSequence = []
    region = next((region for part, region in _REGIONS.items() if part in str(dataset.BodyPartExamined)), None)
    dataset.AnatomicRegionSequence = [_code(region[0], "SCT", region[1])] if region else []


def method_attributes(dataset: Dataset, *, shifted: bool) -> None:
    """Say that, and how, a data set was de-identified (PS3.3 C.7.1.1, PS3.15 E.1, codes of CID 7050)."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [
        f"nc_medfl {__version__}, whitelist",
        f"dicom-anonymizer {version('dicom-anonymizer')}, PS3.15 basic profile",
    ]
    applied = [_BASIC, *([_MODIFIED_DATES] if shifted else []), _CHARACTERISTICS]
    dataset.DeidentificationMethodCodeSequence = [_code(code, "DCM", _METHODS[code]) for code in applied]
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if shifted else "REMOVED"


def _code(code: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, scheme, meaning
    return item


def file_meta(dataset: Dataset) -> FileMetaDataset:
    """File meta information from scratch: no application titles, no private information."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"PYDICOM {pydicom.__version__}"[:16]
    return meta
