"""Fitting a radiograph into the stored square, in its true physical shape."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def fit_square(
    pixels: npt.NDArray[np.float32], size: int, aspect: float = 1.0
) -> tuple[npt.NDArray[np.uint8], tuple[int, int, int, int]]:
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
    tall = rows * aspect
    scale = size / max(tall, cols)
    height = min(size, max(1, round(tall * scale)))
    width = min(size, max(1, round(cols * scale)))
    small = _resize(pixels, height, width)
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((size, size), dtype=np.uint8)
    square[top : top + height, left : left + width] = np.rint(np.clip(small, 0.0, 1.0) * 255.0)
    return square, (top, left, height, width)


def _resize(pixels: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    rows, cols = pixels.shape
    # cv2's area average is one only where both sides shrink, so shrink first and enlarge after.
    down = (min(rows, height), min(cols, width))
    out: npt.NDArray[np.float32] = np.ascontiguousarray(pixels)
    if down != (rows, cols):
        out = cv2.resize(out, (down[1], down[0]), interpolation=cv2.INTER_AREA)
    if down != (height, width):
        out = cv2.resize(out, (width, height), interpolation=cv2.INTER_LINEAR)
    return out
