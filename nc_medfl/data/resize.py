"""Fitting a radiograph into the stored square, in its true physical shape."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]

#: Rows that are worked on at once: what the steps hand each other stays in the processor's cache.
_STRIP = 512


def fitted_box(rows: int, cols: int, size: int, aspect: float = 1.0) -> Box:
    """Where a picture lies in its square: (top, left, height, width), the long side fitted, centred.

    Args:
        rows: of the picture.
        cols: of the picture.
        size: side of the square, pixels.
        aspect: physical height of a source pixel over its width.
    """
    tall = rows * aspect
    scale = size / max(tall, cols)
    height = min(size, max(1, round(tall * scale)))
    width = min(size, max(1, round(cols * scale)))
    return (size - height) // 2, (size - width) // 2, height, width


def fit_square(pixels: npt.NDArray[np.float32], size: int, aspect: float = 1.0) -> tuple[npt.NDArray[np.uint8], Box]:
    """Fit the long side to ``size``, centre, and pad with zeros.

    A side that shrinks is averaged over areas, a side that grows is interpolated linearly.

    Args:
        pixels: float32 ``[rows, cols]`` in [0, 1].
        size: side of the square, pixels.
        aspect: physical height of a source pixel over its width.

    Returns:
        uint8 ``[size, size]``, and (top, left, height, width) of the picture inside it.
    """
    rows, cols = pixels.shape
    box = fitted_box(rows, cols, size, aspect)
    top, left, height, width = box
    # cv2's area average is one only where both sides shrink, so shrink first and enlarge after.
    out = shrink(pixels, min(rows, height), min(cols, width))
    if out.shape != (height, width):
        out = cv2.resize(out, (width, height), interpolation=cv2.INTER_LINEAR)
    square = np.zeros((size, size), dtype=np.uint8)
    square[top : top + height, left : left + width] = np.rint(np.clip(out, 0.0, 1.0) * 255.0)
    return square, box


def shrink(pixels: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """Average over areas to ``[height, width]``, neither more than the picture has; integers are rounded."""
    out: npt.NDArray[Any] = np.ascontiguousarray(pixels)
    if out.shape != (height, width):
        out = cv2.resize(out, (width, height), interpolation=cv2.INTER_AREA)
    return out


def shrink_levels(
    levels: npt.NDArray[np.integer[Any]], height: int, width: int, low: int, high: int
) -> npt.NDArray[np.integer[Any]]:
    """Average grey levels over areas, those outside of a range counted as its ends; averages are rounded.

    Args:
        levels: integers of 8 or 16 bits ``[rows, cols]``.
        height: to shrink to, not more than rows.
        width: to shrink to, not more than columns.
        low: lowest level that is told apart.
        high: highest level that is told apart.
    """
    rows, cols = levels.shape
    if levels.dtype == np.uint16 and high < 2**12 and _by_four(rows, height) and _by_four(cols, width):
        return _sixteenths(_sums_of_sixteen(levels, low, high), height, width)
    return shrink(np.clip(levels, low, high), height, width)


def _by_four(side: int, small: int) -> bool:
    return side % small == 0 and side // small in (4, 8, 16)


def _sums_of_sixteen(levels: npt.NDArray[Any], low: int, high: int) -> npt.NDArray[np.uint16]:
    """Sums over squares of 4 x 4 levels of at most 12 bits, which 16 bits hold."""
    rows, cols = levels.shape
    sums = np.empty((rows // 4, cols // 4), dtype=np.uint16)
    for start in range(0, rows, _STRIP):
        strip = np.clip(levels[start : start + _STRIP], low, high)
        columns = strip[0::4] + strip[1::4]
        columns += strip[2::4]
        columns += strip[3::4]
        # Four neighbours are one number of 64 bits; times this, their sum stands in its highest 16.
        fours = columns.view(np.uint64)
        fours *= np.uint64(0x0001_0001_0001_0001)
        fours >>= np.uint64(48)
        sums[start // 4 : start // 4 + len(fours)] = fours
    return sums


def _sixteenths(sums: npt.NDArray[np.uint16], height: int, width: int) -> npt.NDArray[np.uint16]:
    """Averages of the levels of which there are sums over sixteen, rounded half to even as cv2 rounds."""
    if sums.shape == (height, width):
        odd = sums >> np.uint16(4) & np.uint16(1)
        means: npt.NDArray[np.uint16] = (sums + np.uint16(7) + odd) >> np.uint16(4)
    else:
        small = cv2.resize(sums.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        means = np.rint(small / 16).astype(np.uint16)
    return means
