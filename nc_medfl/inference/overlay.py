"""Maps laid over the radiograph, as PNG."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

#: Side of an overlay in pixels, at least.
_SIDE = 256
#: How much of the colour there is at the map's maximum.
_STRENGTH = 0.65


def overlay(square: npt.NDArray[np.uint8], map_: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Colour a radiograph by a map: none where it is 0, most at its own maximum.

    Args:
        square: as stored, uint8 ``[size, size]``.
        map_: ``[h, w]``, 0 or more.

    Returns:
        RGB, uint8 ``[side, side, 3]``.
    """
    from matplotlib import colormaps

    side = max(_SIDE, len(square))
    grey = cv2.resize(square, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)[..., None]
    large = cv2.resize(map_.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    level = np.clip(large / max(float(large.max()), 1e-12), 0.0, 1.0)
    colour = colormaps["viridis"](level)[..., :3] * 255.0  # told apart by colour-blind readers too
    weight = _STRENGTH * level[..., None]
    mixed: npt.NDArray[np.uint8] = np.rint((1 - weight) * grey + weight * colour).clip(0, 255).astype(np.uint8)
    return mixed


def jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """As :func:`png`, at a tenth of its length with losses that nobody sees: for a page of many pictures."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file's bytes of grey ``[H, W]`` or RGB ``[H, W, 3]`` pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
