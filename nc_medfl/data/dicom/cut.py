"""Whether a compressed frame was cut short where its decoder keeps silent about it: an end marker hides the cut.

The means is to decode a second time with other bytes in the frame, which changes nothing unless they stand where data
are wanting. That costs as much as the first time, so a frame must look as if it had been cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Decoder = Callable[[bytes], Any]

#: Ends a frame of the JPEG family.
END = b"\xff\xd9"
JPEG2000_START = b"\xff\x4f\xff\x51"
_SCAN = b"\xff\xda"
#: Marker of a tile-part, and the length of its segment.
_TILE = b"\xff\x90\x00\x0a"
#: Bytes that no decoder takes for nothing: a mix of ones and zeros without a marker.
_MORE = bytes(range(1, 128)) * 8
#: The same for JPEG-LS, whose codes are runs of zeros ended by a one: short ones.
_MORE_JPEG_LS = b"\x55"
#: A run of zeros before the end marker that is looked into.
_ZEROS = 64


def lacks_tiles(frame: bytes, end: int) -> bool:
    """Whether a tile-part of JPEG 2000 claims bytes behind the end marker (SOT: ISO/IEC 15444-1 A.4.2)."""
    at = frame.find(_TILE, frame.find(JPEG2000_START))
    while at >= 0 and frame[at : at + 4] == _TILE:
        length = int.from_bytes(frame[at + 6 : at + 10], "big")
        if at + length > end:
            return True
        if length < 12:  # 0: up to the end
            return False
        at += length
    return False


def wants_more(frame: bytes, pixels: int) -> bool:
    """Whether a JPEG-LS frame that was refused is decoded to its last pixel with bytes put before its end marker.

    The decoder then has bytes left, and says so: that is how one that ended early is told from a damaged one.

    Args:
        frame: the frame.
        pixels: how many it has.
    """
    end = frame.rfind(END)
    try:
        imagecodecs.jpegls_decode(frame[:end] + _MORE_JPEG_LS * (4 * pixels) + frame[end:])
    except Exception as error:
        return "still contains encoded data" in str(error)
    return True


def may_have_run_out(frame: bytes, shown: Array, grey: int) -> bool:
    """Whether a JPEG looks as if its data ended before its last pixel.

    libjpeg fills what is missing with mid-grey, from the last pixel backwards; data may also end in zeros that took
    their place; and of several scans, a later one may be missing without a trace in any pixel.

    Args:
        frame: the JPEG.
        shown: its pixels, ``[rows, cols]``, turned in whatever way.
        grey: the mid-grey of its precision.
    """
    corners = shown[:: max(1, len(shown) - 1), :: max(1, shown.shape[1] - 1)]
    return bool((corners == grey).any()) or frame.count(_SCAN) > 1 or _ends_in_zeros(frame)


def ran_out(array: Array, frame: bytes, decoder: Decoder) -> bool:
    """Whether a JPEG decoder ran out of data before the last pixel.

    One that had all its pixels passes over what stands before the end marker.

    Args:
        array: what the decoder made of the frame.
        frame: the JPEG.
        decoder: the decoder.
    """
    end = frame.rfind(END)
    again = _decoded(decoder, frame[:end] + _MORE + frame[end:])
    return again is None or not np.array_equal(again, array)


def is_filled_up(array: Array, frame: bytes, decoder: Decoder) -> bool:
    """Whether zeros before the end marker stand in the place of data, as a transfer that broke off leaves them.

    Zeros may be codes, of an even background for instance. Where they are more than the codes that were to come, the
    last of them are never looked at; where they are fewer, the decoder runs out. The arguments are as for
    :func:`ran_out`.
    """
    if not _ends_in_zeros(frame):
        return False
    end = frame.rfind(END)
    again = _decoded(decoder, frame[: end - 8] + _MORE[:8] + frame[end:])
    return again is not None and np.array_equal(again, array)


def is_cut_jpeg(content: bytes, shown: Array) -> bool:
    """Whether a JPEG file of 8 bits was cut short and ended.

    Args:
        content: of the file.
        shown: its grey levels, ``[rows, cols]``, turned in whatever way.
    """
    if not may_have_run_out(content, shown, 128):
        return False
    array = _decoded(imagecodecs.jpeg8_decode, content)
    if array is None:  # of another colour space: then nothing is known
        return False
    return ran_out(array, content, imagecodecs.jpeg8_decode) or is_filled_up(array, content, imagecodecs.jpeg8_decode)


def _decoded(decoder: Decoder, frame: bytes) -> Array | None:
    """What a decoder makes of a frame; None where it refuses it. Too little memory says nothing of the frame."""
    try:
        array: Array = decoder(frame)
    except MemoryError:
        raise
    except Exception:  # each library has errors of its own
        return None
    return array


def _ends_in_zeros(frame: bytes) -> bool:
    end = frame.rfind(END)
    return not frame[end - _ZEROS : end].strip(b"\0")
