"""What can be measured on the stored images, and which of them somebody should look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nc_medfl.data.store import Store

Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]

#: Modified z-score above which a value is an outlier (Iglewicz and Hoaglin, 1993).
FAR = 3.5
#: Grey levels, of 255, that count as black and as white, and the share of pixels that makes an image that.
_BLACK, _WHITE, _NEARLY_ALL = 8, 247, 0.9
#: How much brighter, of the whole range, the upper corners are than the middle in an image that looks inverted.
_INVERTED = 0.25
#: Width over height outside which a chest radiograph is oddly shaped.
_ASPECT = (0.6, 1.7)


@dataclass(frozen=True)
class Measures:
    """One number an image, in the order of the manifest, each ``[N]``; padding is left out.

    Attributes:
        mean: of the grey levels, in [0, 1].
        deviation: their standard deviation.
        black: share of pixels that are nearly black.
        white: share of pixels that are nearly white.
        corners: mean of the two upper corners less that of the middle.
        aspect: width over height.
    """

    mean: Floats
    deviation: Floats
    black: Floats
    white: Floats
    corners: Floats
    aspect: Floats


def measure(store: Store, progress: Progress | None = None) -> Measures:
    """Measure every image of a store. One image is in memory at a time.

    Args:
        store: what to measure.
        progress: called with (images done, images in all).
    """
    table = np.zeros((6, len(store)), dtype=np.float64)
    for position, (box, picture) in enumerate(zip(store.manifest["pad_box"], store.each_image(), strict=True)):
        if isinstance(box, str) and box.count(",") == 3:
            top, left, height, width = (int(part) for part in box.split(","))
            picture = picture[top : top + height, left : left + width]
        table[:, position] = _measure(picture)
        if progress:
            progress(position + 1, len(store))
    return Measures(*table)


def _measure(picture: npt.NDArray[np.uint8]) -> tuple[float, ...]:
    # On the 256 grey levels instead of the pixels: exact, and much faster.
    counts = np.bincount(picture.ravel(), minlength=256).astype(np.float64)
    levels = np.arange(256) / 255.0
    mean = float(counts @ levels / counts.sum())
    deviation = float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum()))
    black = float(counts[: _BLACK + 1].sum() / counts.sum())
    white = float(counts[_WHITE:].sum() / counts.sum())
    rows, cols = picture.shape
    high, wide = max(1, rows // 8), max(1, cols // 8)
    corners = (picture[:high, :wide].mean() + picture[:high, -wide:].mean()) / 2
    middle = picture[rows // 4 : rows - rows // 4, cols // 4 : cols - cols // 4].mean()
    return mean, deviation, black, white, float(corners - middle) / 255.0, cols / rows


def robust_distance(values: Floats) -> Floats:
    """Modified z-score: 0.6745 (x - median) / (median absolute deviation); 0 everywhere if that is 0.

    Args:
        values: ``[N]``.
    """
    if not len(values):
        return values
    off = values - np.median(values)
    spread = np.median(np.abs(off))
    out: Floats = 0.6745 * off / spread if spread > 0 else np.zeros_like(off)
    return out


def outliers(found: Measures) -> dict[int, list[str]]:
    """Images that somebody should look at: reasons by position, the most striking first.

    Args:
        found: as :func:`measure` gives it.
    """
    mean, deviation = robust_distance(found.mean), robust_distance(found.deviation)
    checks: list[tuple[npt.NDArray[np.bool_], str]] = [
        (found.black > _NEARLY_ALL, "almost black"),
        (found.white > _NEARLY_ALL, "almost white"),
        (found.corners > _INVERTED, "looks inverted (upper corners much brighter than the middle)"),
        ((found.aspect < _ASPECT[0]) | (found.aspect > _ASPECT[1]), "oddly shaped"),
        (mean > FAR, "much brighter than the others"),
        (mean < -FAR, "much darker than the others"),
        (deviation > FAR, "much more contrast than the others"),
        (deviation < -FAR, "much less contrast than the others"),
    ]
    reasons: dict[int, list[str]] = {}
    for hit, reason in checks:
        for position in np.flatnonzero(hit).tolist():
            reasons.setdefault(position, []).append(reason)
    distance = np.maximum(np.abs(mean), np.abs(deviation))
    order = sorted(reasons, key=lambda position: (-len(reasons[position]), -distance[position], position))
    return {position: reasons[position] for position in order}
