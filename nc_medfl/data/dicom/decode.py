"""From encoded pixel data to stored values, one decoder a codec, one thread.

Encapsulated frames are told apart by their own markers rather than by the transfer syntax, and a frame
whose size differs from the header is refused before it is decoded.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, cast

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from pydicom.encaps import generate_frames

from nc_medfl.data.dicom.cut import (
    END,
    JPEG2000_START,
    is_filled_up,
    lacks_tiles,
    may_have_run_out,
    ran_out,
    wants_more,
)
from nc_medfl.data.dicom.deidentify import integer
from nc_medfl.data.dicom.quarantine import Rejected
from nc_medfl.data.picture import extremes

Stored = npt.NDArray[np.generic]
Codec = Literal["jpeg", "jpeg_lossless", "jpeg_ls", "jpeg2000"]

RLE = "1.2.840.10008.1.2.5"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
#: Transfer syntaxes without encapsulation: implicit and explicit little endian, deflated, big endian.
NATIVE = frozenset(f"1.2.840.10008.1.2{suffix}" for suffix in ("", ".1", ".1.99", ".2"))
#: Native pixels wrapped as a fragment.
_WRAPPED = "1.2.840.10008.1.2.1.98"
_LOSSY = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 93, 203))
_LOSSLESS_OF_CODEC = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (57, 70, 80, 90, 92, 201, 202))

_ITEM = b"\xfe\xff\x00\xe0"
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


def is_lossy(transfer_syntax: str) -> bool | None:
    """Whether a transfer syntax says its pixels lost something; None where it doesn't say (lossy or not)."""
    if transfer_syntax in NATIVE or transfer_syntax == RLE or transfer_syntax in _LOSSLESS_OF_CODEC:
        return False
    return True if transfer_syntax in _LOSSY else None


@dataclass(frozen=True)
class Decoded:
    """A decoded frame.

    Attributes:
        stored: values ``[rows, cols]``: unused high bits removed, sign extended where the data are signed.
        span: the lowest and the highest of them, where that was found out on the way.
    """

    stored: Stored
    span: tuple[int, int] | None = None


def decode_frame(dataset: Any, transfer_syntax: str, *, jpeg2000_reduce: int = 0) -> Decoded:
    """Decode the one frame of a data set.

    Args:
        dataset: a pydicom data set with pixel data; Rows and Columns have been checked.
        transfer_syntax: its transfer syntax UID.
        jpeg2000_reduce: resolution levels of JPEG 2000 to be left out, each halves the sides; left undone where the
            frame hasn't as many, or holds signed values.

    Raises:
        Rejected: ``truncated`` or ``undecodable``.
    """
    bits = integer(dataset, "BitsAllocated")
    if bits not in (1, 8, 16, 32):
        raise Rejected("undecodable", "BitsAllocated is not 1, 8, 16 or 32")
    # What the pixel data are decides, where a writer compressed them and forgot to say so.
    wrapped = bool(dataset.PixelData[:4] == _ITEM and getattr(dataset["PixelData"], "is_undefined_length", False))
    if transfer_syntax in NATIVE and not wrapped:
        return _stored_bits(_native(dataset.PixelData, dataset, transfer_syntax, bits), dataset, None, clip=False)
    if not dataset.PixelData.startswith(_ITEM):
        raise Rejected("undecodable", "a compressed or unknown transfer syntax, and no compressed frame")
    frame = _frame(dataset)
    if transfer_syntax == RLE:
        return _stored_bits(_run_length(frame, dataset, bits), dataset, None, clip=False)
    if transfer_syntax == _WRAPPED:
        return _stored_bits(_native(frame, dataset, transfer_syntax, bits), dataset, None, clip=False)
    codec, precision = _check_frame(frame, dataset)
    decoded = _reduced(frame, precision, jpeg2000_reduce) if codec == "jpeg2000" and jpeg2000_reduce else None
    if decoded is None:
        decoded = _run_codec(codec, frame, precision, dataset)
    return _stored_bits(decoded, dataset, precision, clip=is_lossy(transfer_syntax) is True)


def _native(raw: bytes, dataset: Any, transfer_syntax: str, bits: int) -> Stored:
    rows, cols = _shape(dataset)
    length = -(-rows * cols * bits // 8)
    if len(raw) < length:
        raise Rejected("truncated", "pixel data shorter than Rows x Columns")
    big = transfer_syntax == BIG_ENDIAN
    if big and bits <= 8 and dataset["PixelData"].VR == "OW":
        # Bytes in 16-bit words come swapped (PS3.5 section 8.2 and annex A.3).
        raw = np.frombuffer(raw[: len(raw) // 2 * 2], dtype=">u2").astype("<u2").tobytes()
    if len(raw) < length:
        raise Rejected("truncated", "pixel data shorter than Rows x Columns")
    if bits == 1:
        # The first pixel is the lowest bit of the first byte (PS3.5 section 8.1.1).
        packed = np.frombuffer(raw[:length], dtype=np.uint8)
        return np.unpackbits(packed, count=rows * cols, bitorder="little").reshape(rows, cols)
    array = np.frombuffer(raw[:length], dtype=f"{'>' if big else '<'}u{bits // 8}")
    return array.reshape(rows, cols)


def _run_length(frame: bytes, dataset: Any, bits: int) -> Stored:
    """RLE: one PackBits segment a byte plane, the most significant plane first (PS3.5 annex G)."""
    rows, cols = _shape(dataset)
    planes = bits // 8
    if len(frame) < 64:
        raise Rejected("truncated", "the RLE frame is shorter than its header")
    count, *offsets = struct.unpack("<16L", frame[:64])
    if count != planes:
        raise Rejected("undecodable", f"{count} RLE segments for {bits} bits")
    ends = [*offsets[1:planes], len(frame)]
    array = np.zeros(rows * cols, dtype=f"<u{planes}")
    for start, end in zip(offsets[:planes], ends, strict=True):
        plane = _unpack_bits(frame[start:end])
        if len(plane) < rows * cols:
            raise Rejected("truncated", "an RLE segment is shorter than Rows x Columns")
        array = (array << 8 if planes > 1 else array) | np.frombuffer(plane[: rows * cols], dtype=np.uint8)
    return array.reshape(rows, cols)


def _unpack_bits(segment: bytes) -> bytes:
    try:
        return bytes(imagecodecs.packbits_decode(segment))
    except Exception as error:
        raise Rejected("undecodable", "the RLE decoder refused it") from error


def _frame(dataset: Any) -> bytes:
    try:
        frame: bytes = next(iter(generate_frames(dataset.PixelData, number_of_frames=1)))
    except Exception as error:
        raise Rejected("truncated", "the encapsulated frame is not complete") from error
    if not frame:
        raise Rejected("truncated", "the encapsulated frame is empty")
    return frame


def _check_frame(frame: bytes, dataset: Any) -> tuple[Codec, int]:
    """Codec and precision of a JPEG-family frame that is whole and has the header's size."""
    parsed = _jpeg2000_header(frame) or _jpeg_header(frame)
    if parsed is None:
        raise Rejected("undecodable", "the frame has no JPEG or JPEG 2000 header")
    codec, rows, cols, precision, components = parsed
    end = frame.rfind(END)
    # An odd frame is padded by one byte; writers are seen to pad with zeros or with 0xFF.
    if end < 0 or frame[end + 2 :].strip(b"\0\xff"):
        raise Rejected("truncated", "the compressed frame has no end marker")
    if (rows, cols) != _shape(dataset):
        raise Rejected("undecodable", "the compressed frame has another size than Rows x Columns")
    if components != 1:
        raise Rejected("undecodable", "the compressed frame has several components")
    if codec == "jpeg2000" and lacks_tiles(frame, end):
        raise Rejected("truncated", "a tile of the compressed frame ends early")
    return codec, precision


def _jpeg2000_header(frame: bytes) -> tuple[Codec, int, int, int, int] | None:
    start = frame.find(JPEG2000_START, 0, 4096)
    if start < 0 or len(frame) < start + 43 or frame[:2] == b"\xff\xd8":
        return None
    right, bottom, left, top = struct.unpack(">4I", frame[start + 8 : start + 24])
    components = int.from_bytes(frame[start + 40 : start + 42], "big")
    return "jpeg2000", bottom - top, right - left, (frame[start + 42] & 0x7F) + 1, components


def _jpeg_header(frame: bytes) -> tuple[Codec, int, int, int, int] | None:
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _START_OF_FRAME:
            precision, rows, cols = struct.unpack(">BHH", frame[at + 4 : at + 9])
            codec: Codec = "jpeg_ls" if marker == 0xF7 else "jpeg_lossless" if marker == 0xC3 else "jpeg"
            return codec, rows, cols, precision, frame[at + 9]
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _jpeg2000(frame: bytes) -> Stored:
    array: Stored = imagecodecs.jpeg2k_decode(frame, numthreads=1)
    return array


def _reduced(frame: bytes, precision: int, levels: int) -> Stored | None:
    """A JPEG 2000 frame at ``1 / 2^levels`` of its size, or None where that can't be had.

    By Pillow, since imagecodecs offers no reduction. It spreads values of 9 to 16 bits over 16.
    """
    start = frame.find(JPEG2000_START, 0, 4096)
    signed = frame[start + 42] & 0x80
    coding = frame.find(
        b"\xff\x52", start, start + 4096
    )  # COD: marker, length, style, order, layers, transform, levels
    if signed or coding < 0 or frame[coding + 9] < levels:
        return None
    try:
        picture = cast("Jpeg2KImageFile", Image.open(BytesIO(frame)))
        picture.reduce = levels
        array = np.asarray(picture)
    except Exception:
        return None
    if array.ndim != 2 or array.dtype not in (np.uint8, np.uint16):
        return None
    return array >> np.uint16(16 - precision) if array.dtype == np.uint16 else array


_DECODERS: dict[Codec, tuple[Callable[[bytes], Stored], ...]] = {
    "jpeg": (imagecodecs.jpeg8_decode,),
    "jpeg_lossless": (imagecodecs.jpeg8_decode, imagecodecs.jpegsof3_decode),
    "jpeg_ls": (imagecodecs.jpegls_decode,),
    # OpenJPEG reads HTJ2K too, and unlike OpenJPH it refuses a frame that ends early.
    "jpeg2000": (_jpeg2000,),
}


def _run_codec(codec: Codec, frame: bytes, precision: int, dataset: Any) -> Stored:
    failure: Exception | None = None
    for decoder in _DECODERS[codec]:
        try:
            array = _of_shape(decoder(frame), dataset)
        except Exception as error:
            failure = failure or error
            continue
        _check_end(codec, array, frame, precision, decoder)
        return array
    if codec == "jpeg_ls" and wants_more(frame, math.prod(_shape(dataset))):
        raise Rejected("truncated", "the compressed frame ends before its last pixel")
    raise Rejected("undecodable", f"the {codec} decoder refused it") from failure


def _check_end(codec: Codec, array: Stored, frame: bytes, precision: int, decoder: Callable[[bytes], Stored]) -> None:
    """Refuse a frame that ends early, though its decoder says nothing."""
    silent = codec in ("jpeg", "jpeg_lossless")
    suspect = decoder is not imagecodecs.jpeg8_decode or may_have_run_out(frame, array, 1 << (precision - 1))
    if silent and suspect and ran_out(array, frame, decoder):
        raise Rejected("truncated", "the compressed frame ends before its last pixel")
    if codec != "jpeg_ls" and is_filled_up(array, frame, decoder):
        raise Rejected("truncated", "the compressed frame is filled up with zeros")


def _of_shape(array: Stored, dataset: Any) -> Stored:
    if array.shape != _shape(dataset):
        raise Rejected("undecodable", "the decoded frame has another shape than Rows x Columns")
    return array


def _shape(dataset: Any) -> tuple[int, int]:
    return integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0


def _clipped(array: Stored, stored: int, allocated: int, *, signed: bool) -> Stored:
    """Values within BitsStored; two's complement patterns that a codec took for unsigned stay as they are."""
    if not signed:
        return np.clip(array, 0, 2**stored - 1).astype(np.uint32 if allocated == 32 else np.uint16)
    return np.clip(array, -(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if array.dtype.kind == "i" else array


def _stored_bits(array: Stored, dataset: Any, precision: int | None, *, clip: bool) -> Decoded:
    """Keep BitsStored bits ending at HighBit and extend the sign (PS3.5 section 8.1.1).

    A codec's own precision narrows BitsStored: JPEG families code two's complement patterns as unsigned. Lossy
    codecs overshoot by a grey level or two, so there values are clipped, not wrapped.
    """
    allocated = integer(dataset, "BitsAllocated") or 16
    stored = integer(dataset, "BitsStored") or allocated
    high = integer(dataset, "HighBit")
    high = stored - 1 if high is None else high
    if not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise Rejected("undecodable", "BitsStored and HighBit don't fit BitsAllocated")
    signed = integer(dataset, "PixelRepresentation") == 1
    # A codec of fewer bits than HighBit was given the values, else the cells that they stand in.
    whole = precision is None or precision > high
    bits, shift = (stored, high + 1 - stored) if whole else (min(stored, precision or stored), 0)
    if clip and not shift:
        array = _clipped(array, stored, allocated, signed=signed)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    full = 8 * array.dtype.itemsize
    pattern: npt.NDArray[Any] = array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "i" else array
    if shift:
        pattern = pattern >> shift
    # Looking is cheaper than copying, and unused bits are rarely set.
    span = extremes(pattern) if bits < full and not signed else None
    if bits < full and (span is None or span[1] >= 2**bits):
        pattern, span = pattern & pattern.dtype.type(2**bits - 1), None
    if not signed:
        return Decoded(pattern, span)
    wide = pattern.astype(np.int64 if full == 32 else np.int32)
    return Decoded(wide - ((wide >> (bits - 1)) << bits))
