"""Fitting a radiograph into the stored square, in its true physical shape."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]


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
