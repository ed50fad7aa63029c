"""Read one DICOM radiograph: judge the header cheaply, decode, bring to display values.

The stages run from cheap to dear and in the order of the closed list of outcomes, so that a file has the
same outcome wherever it is judged.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import UID

from nc_medfl.data.dicom import deidentify
from nc_medfl.data.dicom.decode import decode_frame, is_lossy
from nc_medfl.data.dicom.deidentify import integer, numbers, text
from nc_medfl.data.dicom.display import Display, to_display
from nc_medfl.data.dicom.identifier import patient_id_of
from nc_medfl.data.dicom.quarantine import Rejected
from nc_medfl.data.radiograph import Facts, Radiograph

#: Part of the settings hash: raise it whenever the same file gives other pixels.
READER_VERSION = 5
MAX_PIXELS = 2**27
#: A file of more bytes can't be one radiograph of at most 2^27 pixels.
MAX_BYTES = 4 * MAX_PIXELS + 2**26
#: Words of view, side and technique that people write behind or before a body part.
_NO_BODY_PART = frozenset(
    {
        *("PA", "AP", "LAT", "LATERAL", "LL", "RL", "L", "R", "LEFT", "RIGHT", "BOTH", "BILATERAL", "FRONTAL"),
        *("OBLIQUE", "DECUBITUS", "UPRIGHT", "ERECT", "SUPINE", "STANDING", "PORTABLE", "PORT", "MOBILE"),
        *("BEDSIDE", "ROUTINE", "VIEW", "VIEWS", "VW", "V", "XRAY", "X", "RAY", "UNILATERAL", "CAGE"),
    }
)
_PIXEL_DATA = 0x7FE00010
#: A radiograph has some hundred.
_MOST_ELEMENTS = 100_000
#: 2^27 pixels of 16 bits, and a header.
_MOST_INFLATED = 2 * MAX_PIXELS + 2**24
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True)
class Policy:
    """Which radiographs are wanted.

    Attributes:
        min_side: smallest side that is taken, pixels.
        modalities: taken without further ado.
        doubtful_modalities: taken only where the header states a chest body part.
        body_parts: the body parts that count as chest, in capitals without spaces and marks.
        patient_required: whether the header must say whose the image is; a label table may say it instead.
    """

    min_side: int = 64
    modalities: frozenset[str] = frozenset({"CR", "DX", "RG"})
    doubtful_modalities: frozenset[str] = frozenset({"OT", "SC", ""})
    body_parts: frozenset[str] = frozenset(
        {"CHEST", "THORAX", "THORACIC", "LUNG", "LUNGS", "RIB", "RIBS", "TSPINE", "THORACICSPINE"}
    )
    patient_required: bool = True


DEFAULT_POLICY = Policy()


def read_radiograph(path: str | Path, policy: Policy = DEFAULT_POLICY) -> Radiograph:
    """Read a DICOM radiograph from disk.

    Args:
        path: the file; any name.
        policy: which radiographs are wanted.

    Raises:
        Rejected: with one of the closed list of outcomes.
        OSError: if the file can't be read.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise Rejected("too_large", "the file is longer than any radiograph of 2^27 pixels")
    return read_bytes(path.read_bytes(), policy)


def read_bytes(
    content: bytes,
    policy: Policy = DEFAULT_POLICY,
    *,
    jpeg2000_reduce: int = 0,
) -> Radiograph:
    """As :func:`read_radiograph`, from the bytes of the file.

    Args:
        content: of the file.
        policy: which radiographs are wanted.
        jpeg2000_reduce: resolution levels of JPEG 2000 to be left out (see :func:`decode_frame`).
    """
    with warnings.catch_warnings():
        # pydicom's warnings quote values of the header.
        warnings.simplefilter("ignore")
        dataset = parse(content)
        syntax = check_header(dataset, policy)
        radiograph = decode(dataset, syntax, jpeg2000_reduce=jpeg2000_reduce)
        check_person(dataset, policy)
    return radiograph


def decode(dataset: Dataset, syntax: str, *, jpeg2000_reduce: int = 0) -> Radiograph:
    """Decode a data set whose picture has been found fit by :func:`check_picture` and :func:`check_size`.

    Args:
        dataset: the header and the frame.
        syntax: transfer syntax UID.
        jpeg2000_reduce: see :func:`decode_frame`.

    Raises:
        Rejected: ``truncated``, ``undecodable`` or ``constant_image``.
    """
    decoded = decode_frame(dataset, syntax, jpeg2000_reduce=jpeg2000_reduce)
    stored = decoded.stored
    inverted = text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    display = to_display(stored, dataset, inverted=inverted, span=decoded.span)
    aspect, spacing, note = physical_aspect(dataset)
    facts = _facts(dataset, syntax, display, spacing)
    notes = (*display.notes, *((note,) if note else ()))
    return Radiograph(display.picture, stored, aspect, facts, deidentify.identity_of(dataset), notes)


def parse(content: bytes) -> Dataset:
    """Parse the bytes of a file, with or without a preamble.

    Raises:
        Rejected: ``empty_file``, ``not_dicom``, ``dicomdir``, ``truncated`` or ``no_pixel_data``.
    """
    if not content:
        raise Rejected("empty_file", "the file has no bytes")
    if content.startswith(b"DICM"):  # a mark without the 128 bytes that belong before it
        content = content[4:]
    preamble = content[128:132] == b"DICM"
    if not preamble and content[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08"):
        packed = (
            content.startswith((b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0")) or content[257:262] == b"ustar"
        )
        raise Rejected("not_dicom", "an archive; unpack it" if packed else "no DICM mark, and no data set at the start")
    _check_deflated(content)
    try:
        dataset = read_partial(BytesIO(content), stop_when=_Parsing(), force=not preamble)
        keys = list(dataset.keys())
    except Rejected:
        raise
    except Exception as error:
        if preamble and isinstance(error, (struct.error, EOFError)):
            raise Rejected("truncated", "the file ends inside an element's header") from error
        raise Rejected("not_dicom", f"not readable as a data set ({type(error).__name__})") from error
    if not preamble and not dataset.file_meta and not {"SOPClassUID", "Modality", "Rows"} & _keywords(dataset):
        raise Rejected("not_dicom", "no DICM mark, and nothing that an image has")
    if _is_directory(dataset):
        raise Rejected("dicomdir", "a DICOMDIR")
    _check_pixel_data(dataset, content, keys)
    return dataset


def _check_pixel_data(dataset: Dataset, content: bytes, keys: list[Any]) -> None:
    """Make sure that there are pixel data; where there are none, tell a file cut short from one that never had any."""
    if "PixelData" in dataset:
        element: Any = dataset.get_item("PixelData")
        # Where bytes were announced and none came, pydicom gives none; where none were announced, no value.
        if element.value is None or getattr(element, "length", None) == 0:
            raise Rejected("no_pixel_data", "an empty Pixel Data element")
        if deidentify.value(dataset, "PixelData") is not None:
            return
    if _can_hold_pixels(dataset) and _ends_early(dataset, content, keys):
        raise Rejected("truncated", "the file ends before its pixel data do")
    raise Rejected("no_pixel_data", "no Pixel Data element")


def check_header(dataset: Dataset, policy: Policy = DEFAULT_POLICY) -> str:
    """Judge a header before anything is decoded or allocated.

    Returns:
        The transfer syntax UID.

    Raises:
        Rejected: the first of the outcomes that can be told from the header.
    """
    syntax = check_picture(dataset)
    check_wanted(dataset, policy)
    check_size(dataset, policy)
    return syntax


def check_picture(dataset: Dataset) -> str:
    """Make sure that there is one grey picture of known encoding, and return its transfer syntax UID.

    Raises:
        Rejected: ``no_transfer_syntax``, ``multiframe``, ``colour`` or ``photometric``.
    """
    syntax = text(dataset.file_meta, "TransferSyntaxUID")
    if not syntax:
        raise Rejected("no_transfer_syntax", "no Transfer Syntax UID")
    if (integer(dataset, "NumberOfFrames") or 1) > 1:
        raise Rejected("multiframe", "more than one frame")
    photometric = text(dataset, "PhotometricInterpretation")
    if (integer(dataset, "SamplesPerPixel") or 1) > 1 or photometric.startswith(("RGB", "YBR", "PALETTE")):
        raise Rejected("colour", "a colour image")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Rejected("photometric", "neither MONOCHROME1 nor MONOCHROME2")
    return syntax


def check_wanted(dataset: Dataset, policy: Policy) -> None:
    """Make sure that it is a chest radiograph, as far as the header tells.

    Raises:
        Rejected: ``modality`` or ``body_part``.
    """
    modality = text(dataset, "Modality").upper()
    if modality not in policy.modalities | policy.doubtful_modalities:
        raise Rejected("modality", "the modality is not a radiograph's")
    part = text(dataset, "BodyPartExamined")
    if part and not is_wanted_part(part, policy):
        raise Rejected("body_part", "the stated body part is not the chest")
    if not part and modality in policy.doubtful_modalities:
        raise Rejected("body_part", "this modality needs a stated chest body part")


def is_wanted_part(term: str, policy: Policy) -> bool:
    """Whether a body part is one of the policy's, whatever words of view, side and technique stand beside it.

    ``CHEST PA`` and ``CHEST/RIBS`` are, ``T-SPINE`` is by its words together, ``CHEST ABDOMEN`` is not.
    """
    words = [word for word in re.findall(r"[A-Z]+", term.upper()) if word not in _NO_BODY_PART]
    return bool(words) and ("".join(words) in policy.body_parts or policy.body_parts.issuperset(words))


def check_size(dataset: Dataset, policy: Policy) -> None:
    """Make sure that the sides are sensible, before memory is taken.

    Raises:
        Rejected: ``undecodable``, ``too_small`` or ``too_large``.
    """
    rows, cols = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    if rows <= 0 or cols <= 0:
        raise Rejected("undecodable", "no usable Rows and Columns")
    if min(rows, cols) < policy.min_side:
        raise Rejected("too_small", f"{rows} x {cols} pixels, a side under {policy.min_side}")
    if rows * cols > MAX_PIXELS:
        raise Rejected("too_large", f"{rows} x {cols} pixels, over 2^27")


def check_person(dataset: Dataset, policy: Policy = DEFAULT_POLICY) -> None:
    """Make sure that the image is of somebody, and nobody's name is burned into it.

    Raises:
        Rejected: ``no_patient_id`` or ``burned_in``.
    """
    if policy.patient_required and not patient_id_of(dataset):
        raise Rejected("no_patient_id", "Patient ID is absent or empty")
    if deidentify.burned_in_of(dataset) == "yes":
        raise Rejected("burned_in", "Burned In Annotation is YES")


def physical_aspect(dataset: Dataset) -> tuple[float, float | None, str]:
    """Height of a pixel over its width, its height in mm where known, and a remark.

    Pixel Spacing, then Imager Pixel Spacing, then Nominal Scanned Pixel Spacing (rows first: PS3.3
    10.7.1.1), then Pixel Aspect Ratio. A spacing of 0, or more than ten times longer than wide, is no spacing.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = numbers(dataset, keyword)[:2]
        if _usable(spacing):
            return spacing[0] / spacing[1], spacing[0], ""
    ratio = numbers(dataset, "PixelAspectRatio")[:2]
    if _usable(ratio):
        return ratio[0] / ratio[1], None, ""
    return 1.0, None, "no usable spacing, pixels taken as square"


def _usable(pair: list[float]) -> bool:
    return len(pair) == 2 and min(pair) > 0 and 0.1 <= pair[0] / pair[1] <= 10


def _facts(dataset: Dataset, syntax: str, display: Display, spacing: float | None) -> Facts:
    lossy = text(dataset, "LossyImageCompression") == "01" or is_lossy(syntax)
    return Facts(
        rows=integer(dataset, "Rows") or 0,
        cols=integer(dataset, "Columns") or 0,
        modality=deidentify.modality_of(dataset),
        view=deidentify.view_of(text(dataset, "ViewPosition")),
        spacing=spacing,
        bits=integer(dataset, "BitsStored") or integer(dataset, "BitsAllocated") or 0,
        photometric=text(dataset, "PhotometricInterpretation"),
        inverted=display.inverted,
        transfer_syntax=syntax,
        lossy=lossy,
        voi_source=display.voi_source,
        burned_in=deidentify.burned_in_of(dataset),
        sex=deidentify.sex_of(text(dataset, "PatientSex")),
        age=deidentify.patient_age(dataset),
    )


def _keywords(dataset: Dataset) -> set[str]:
    return {pydicom.datadict.keyword_for_tag(tag) for tag in dataset.keys()}  # noqa: SIM118


def _is_directory(dataset: Dataset) -> bool:
    directory = text(dataset.file_meta, "MediaStorageSOPClassUID") == _MEDIA_STORAGE_DIRECTORY
    return directory or "DirectoryRecordSequence" in dataset


class _Parsing:
    """Where the parsing of a data set stops; asked at each element.

    Behind the pixel data nothing is wanted, whatever rubbish a disk or a transfer has put there; and a data set of
    millions of elements would take minutes.
    """

    def __init__(self) -> None:
        self._met = 0
        self._pixels = False

    def __call__(self, tag: Any, _vr: Any, _length: Any) -> bool:
        self._met += 1
        if self._met > _MOST_ELEMENTS:
            raise Rejected("not_dicom", f"more than {_MOST_ELEMENTS} elements")
        stop = self._pixels and tag > _PIXEL_DATA
        self._pixels = self._pixels or tag == _PIXEL_DATA
        return stop


def _check_deflated(content: bytes) -> None:
    """Refuse a deflated data set that inflates to more than any radiograph, before pydicom inflates it whole."""
    if _DEFLATED not in content[:4096]:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    start, inflated = _end_of_meta(content), 0
    while start < len(content) and not inflater.eof:
        piece = content[start : start + 2**16]
        start += len(piece)
        while piece:
            try:
                inflated += len(inflater.decompress(piece, 2**24))
            except zlib.error:
                return  # pydicom says what is wrong with it
            piece = inflater.unconsumed_tail
            if inflated > _MOST_INFLATED:
                raise Rejected("too_large", "inflates to more than any radiograph of 2^27 pixels")
    if not inflater.eof:
        raise Rejected("truncated", "the deflated data set ends early")


def _end_of_meta(content: bytes) -> int:
    """Where group 0002 ends (explicit little endian: PS3.10 section 7.1)."""
    at = 132 if content[128:132] == b"DICM" else 0
    while content[at : at + 2] == b"\x02\0":
        long = content[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        start, size = (at + 8, 4) if long else (at + 6, 2)
        at = start + size + int.from_bytes(content[start : start + size], "little")
    return at


def _can_hold_pixels(dataset: Dataset) -> bool:
    """Whether a data set cut short may have been an image: by its class, or by its rows where the class is lost."""
    storage = UID(text(dataset, "SOPClassUID") or text(dataset.file_meta, "MediaStorageSOPClassUID")).name
    return "Rows" in dataset or not storage or "Image Storage" in storage or storage[:1].isdigit()


def _ends_early(dataset: Dataset, content: bytes, keys: list[Any]) -> bool:
    """Whether a data set without pixel data lost them to the end of the file.

    Either the last element is shorter than it says, or pydicom gave up inside the pixel data, whose tag then
    stands behind the last element it kept.
    """
    if not keys:
        return True
    last: Any = dataset.get_item(keys[-1])
    raw, length = getattr(last, "value", None), getattr(last, "length", 0xFFFFFFFF)
    if isinstance(raw, bytes) and length != 0xFFFFFFFF and len(raw) < length:
        return True
    start = int(getattr(last, "value_tell", 0) or 0)
    tags = (b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00OB", b"\xe0\x7f\x10\x00\xff\xff", b"\x7f\xe0\x00\x10O")
    return "Rows" in dataset and any(content.find(tag, start) >= 0 for tag in tags)
