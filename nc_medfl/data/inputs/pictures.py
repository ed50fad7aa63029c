"""PNG, JPEG and TIFF of 8 and 16 bits, and single arrays: display images already, taken at full range.

Colour is brought to grey, transparency left out, a picture turned as its orientation says (EXIF's, or TIFF's). A TIFF
whose white is zero is inverted, as MONOCHROME1 is.
"""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from nc_medfl.data.dicom.cut import is_cut_jpeg
from nc_medfl.data.dicom.quarantine import Rejected
from nc_medfl.data.dicom.reader import MAX_PIXELS
from nc_medfl.data.picture import Picture

Stored = npt.NDArray[np.integer[Any]]

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NPY = b"\x93NUMPY"
_PNG_END = b"IEND\xaeB\x60\x82"
_ORIENTATION = 274
_GREY_OR_RGB = frozenset(
    {
        tifffile.PHOTOMETRIC.MINISWHITE,
        tifffile.PHOTOMETRIC.MINISBLACK,
        tifffile.PHOTOMETRIC.RGB,
        tifffile.PHOTOMETRIC.YCBCR,
    }
)
#: Decoded to RGB by their decoder.
_JPEGS = frozenset({tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG})
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def stored_png(content: bytes, min_side: int) -> Stored:
    """Grey levels of a PNG.

    Raises:
        Rejected: ``truncated``, ``too_large``, ``too_small`` or ``undecodable``.
    """
    if content[12:16] != b"IHDR" or len(content) < 33:
        raise Rejected("undecodable", "not a PNG")
    if _PNG_END not in content[-64:]:
        raise Rejected("truncated", "the PNG has no end mark")
    check_size(int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big"), min_side)
    return _by_opencv(content, "PNG")


def stored_jpeg(content: bytes, min_side: int) -> Stored:
    """Grey levels of a JPEG; raises as :func:`stored_png`."""
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF and content[at + 1] not in _START_OF_FRAME:
        # A fill byte stands alone, any other marker before the frame has a length.
        at += 1 if content[at + 1] == 0xFF else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    if at + 9 > len(content) or content[at] != 0xFF:
        raise Rejected("undecodable", "the JPEG has no frame header")
    check_size(
        int.from_bytes(content[at + 5 : at + 7], "big"), int.from_bytes(content[at + 7 : at + 9], "big"), min_side
    )
    if b"\xff\xd9" not in content[-64:]:
        raise Rejected("truncated", "the JPEG has no end marker")
    stored = _by_opencv(content, "JPEG")
    if is_cut_jpeg(content, stored):
        raise Rejected("truncated", "the JPEG ends before its last pixel")
    return stored


def stored_tiff(content: bytes, min_side: int) -> tuple[Stored, int, bool]:
    """Grey levels of a TIFF, bits of a level, and whether its white is zero.

    Raises as :func:`stored_png`, or ``multiframe`` or ``colour``.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            if len(file.pages) != 1:
                raise Rejected("multiframe", "a TIFF of several pages")
            page: Any = file.pages[0]
            check_size(page.imagelength, page.imagewidth, min_side)
            ends = (start + size for start, size in zip(page.dataoffsets, page.databytecounts, strict=True))
            if max(ends, default=0) > len(content):
                raise Rejected("truncated", "the TIFF ends before its pixels do")
            if page.dtype not in (np.uint8, np.uint16) or page.samplesperpixel > 5 or page.bitspersample < 8:
                raise Rejected("undecodable", "a TIFF of neither 8 nor 16 bits")
            array = _shown_as_grey(page)
            turn = int(page.tags.valueof(_ORIENTATION, 1))
            bits = 16 if page.photometric == tifffile.PHOTOMETRIC.PALETTE else int(page.bitspersample)
            white_is_zero = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    except Rejected:
        raise
    except Exception as error:
        raise Rejected("undecodable", "the TIFF decoder refused it") from error
    return _turned(array, turn), bits, white_is_zero


def _shown_as_grey(page: Any) -> Stored:
    """Pixels of a TIFF page as grey levels, by what its samples are (TIFF 6.0, PhotometricInterpretation)."""
    kind, array = page.photometric, page.asarray(maxworkers=1)
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if kind == tifffile.PHOTOMETRIC.PALETTE:
        # Colours of a palette are 16 bits, one row a colour.
        array = np.moveaxis(np.asarray(page.colormap)[:, array], 0, -1)
    elif kind == tifffile.PHOTOMETRIC.SEPARATED:
        array = _from_inks(array, 2 ** int(page.bitspersample) - 1)
    elif kind == tifffile.PHOTOMETRIC.YCBCR and page.compression not in _JPEGS:
        raise Rejected("colour", "a TIFF of luminance and chrominance")
    elif kind not in _GREY_OR_RGB:
        raise Rejected("colour", "a TIFF of another colour space than grey, RGB, CMYK or a palette")
    return to_grey(array)


def _from_inks(array: npt.NDArray[Any], top: int) -> npt.NDArray[Any]:
    """Red, green and blue of cyan, magenta, yellow and black, 0 being no ink."""
    if array.ndim != 3 or array.shape[2] < 4:
        raise Rejected("colour", "a TIFF of other inks than cyan, magenta, yellow and black")
    paper = top - array[:, :, :4].astype(np.float64)
    colours: npt.NDArray[Any] = np.rint(paper[:, :, :3] * paper[:, :, 3:] / top).astype(array.dtype)
    return colours


def _turned(stored: Stored, orientation: int) -> Stored:
    """The picture as it is to be seen, by the number of TIFF's tag Orientation; what is none of them turns nothing."""
    if 5 <= orientation <= 8:
        stored = stored.T
    # Which of rows and columns are still the wrong way round, by number.
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


def stored_array(content: bytes, min_side: int) -> Stored:
    """Grey levels of an ``.npy`` of one image, ``[H, W]`` or ``[H, W, 3]``; raises as :func:`stored_png`."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise Rejected("undecodable", "not an array of pixels") from error
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3):
        raise Rejected("undecodable", "not an array of 8 or 16 bit pixels")
    check_size(array.shape[0], array.shape[1], min_side)
    return to_grey(array)


def check_size(rows: int, cols: int, min_side: int) -> None:
    """Raise ``too_large``, ``too_small`` or ``undecodable`` before a picture is decoded."""
    if rows <= 0 or cols <= 0:
        raise Rejected("undecodable", "no rows or columns")
    if rows * cols > MAX_PIXELS:
        raise Rejected("too_large", f"{rows} x {cols} pixels, over 2^27")
    if min(rows, cols) < min_side:
        raise Rejected("too_small", f"{rows} x {cols} pixels, a side under {min_side}")


def full_range(stored: Stored, *, bits: int | None = None, white_is_zero: bool = False) -> Picture:
    """A picture whose levels are shown as they are, 0 black and all ones white.

    Args:
        stored: levels, 8 or 16 bits wide.
        bits: of a level, where fewer are in use than it is wide.
        white_is_zero: whether 0 is white.
    """
    if stored.min() == stored.max():
        raise Rejected("constant_image", "all pixels have one value")
    width = 8 * stored.dtype.itemsize
    top = 2 ** (bits or width) - 1
    table = np.minimum(np.arange(2**width, dtype=np.float32) / np.float32(top), np.float32(1))
    return Picture(stored, 0, 1.0 - table if white_is_zero else table)


def to_grey(array: npt.NDArray[Any]) -> Stored:
    """Colour brought to grey with the weights of ITU-R BT.601, as OpenCV does; transparency left out.

    Raises:
        Rejected: ``undecodable`` for a shape that is no picture's.
    """
    if array.ndim == 3 and array.shape[2] in (1, 2):
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[2] in (3, 4):
        array = cv2.cvtColor(np.ascontiguousarray(array[:, :, :3]), cv2.COLOR_RGB2GRAY)
    if array.ndim != 2:
        raise Rejected("undecodable", "not a picture of rows and columns")
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def _by_opencv(content: bytes, name: str) -> Stored:
    found = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE)
    if found is None or found.dtype not in (np.uint8, np.uint16):
        raise Rejected("undecodable", f"the {name} decoder refused it")
    stored: Stored = found
    return stored
