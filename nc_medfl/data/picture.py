"""A decoded picture and what its grey levels look like: display values are worked out a level, not a pixel.

Most radiographs have 4096 grey levels and four million pixels. The display value of each level stands in a
table; the whole display image is made only where somebody asks for it. A store needs a small square, for which
stored values are averaged first and looked up after, several times faster (and see :meth:`Picture.fit`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from nc_medfl.data.resize import fit_square, fitted_box, shrink, shrink_levels

#: Levels up to which they are kept in a table by their value.
MAX_LEVELS = 2**17
#: Between neighbouring levels that differ by more than this, an average of levels must not be rounded to one.
_STEEP = 1 / 1024
#: Types that OpenCV averages.
_AVERAGED = (np.uint8, np.int16, np.uint16)


@dataclass(frozen=True)
class Picture:
    """Grey levels and their display values.

    Attributes:
        stored: integer ``[rows, cols]``, native byte order.
        first: the level that ``table[0]`` is of.
        table: float32 ``[levels]``, display value in [0, 1] of level ``first + k``; all of ``stored`` lies inside.
        smooth: whether an average of stored values stands for an average of what they show. It doesn't where some
            values are padding, or are ranks of values.
    """

    stored: npt.NDArray[np.integer]
    first: int
    table: npt.NDArray[np.float32]
    smooth: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, cols = self.stored.shape
        return rows, cols

    def display(self) -> npt.NDArray[np.float32]:
        """The display image at full size, float32 ``[rows, cols]`` in [0, 1]."""
        return np.take(_by_value(self.table, self.first), self.stored, mode="wrap")

    def mean_and_deviation(self) -> tuple[float, float]:
        """Mean and (population) standard deviation of the display image at full size, float64 arithmetic."""
        values, counts = np.unique(self.stored, return_counts=True)
        shown = self.table.astype(np.float64)[values.astype(np.int64) - self.first]
        mean = float(np.average(shown, weights=counts))
        return mean, float(np.sqrt(np.average((shown - mean) ** 2, weights=counts)))

    def fit(self, size: int, aspect: float = 1.0) -> tuple[npt.NDArray[np.uint8], tuple[int, int, int, int]]:
        """Fit into a square, as :func:`nc_medfl.data.resize.fit_square` does with the display image.

        Where the picture shrinks and its window is linear, levels are averaged before they are looked up, which is
        the same but for rounding.
        """
        box = fitted_box(*self.shape, size, aspect)
        top, left, height, width = box
        rows, cols = self.shape
        bounds = self._linear_part()
        if bounds is None or not self.smooth or height > rows or width > cols or self.stored.dtype not in _AVERAGED:
            return fit_square(self.display(), size, aspect)
        # What lies outside of the bounds shows no more than they do, so it must not weigh more.
        square = np.zeros((size, size), dtype=np.uint8)
        inside = square[top : top + height, left : left + width]
        if np.abs(np.diff(self.table)).max(initial=0.0) > _STEEP:
            small = shrink(np.clip(self.stored, *bounds).astype(np.float32), height, width)
            levels = np.arange(len(self.table), dtype=np.float64) + self.first
            inside[:] = np.rint(np.interp(small, levels, self.table) * 255.0)
        else:
            grey = np.rint(_by_value(self.table, self.first) * 255.0).astype(np.uint8)
            inside[:] = np.take(grey, shrink_levels(self.stored, height, width, *bounds), mode="wrap")
        return square, box

    def _linear_part(self) -> tuple[int, int] | None:
        """The levels between which the table is a straight line, flat outside of them; None where it is a curve."""
        changes = np.flatnonzero(np.diff(self.table))
        if not len(changes):
            return None
        start, end = int(changes[0]), int(changes[-1]) + 1
        line = np.linspace(self.table[start], self.table[end], end - start + 1)
        # The first and last step of a window may be part of one: its ends fall between levels.
        step = np.abs(np.diff(self.table[start : end + 1])).max()
        if np.abs(self.table[start : end + 1] - line).max() > max(_STEEP, step):
            return None
        return start + self.first, end + self.first


def extremes(stored: npt.NDArray[np.integer]) -> tuple[int, int]:
    """The lowest and the highest level that occur."""
    if stored.dtype in _AVERAGED:
        low, high, _, _ = cv2.minMaxLoc(stored)
        return int(low), int(high)
    return int(stored.min()), int(stored.max())


def _by_value(table: npt.NDArray[np.float32], first: int) -> npt.NDArray[np.float32]:
    """A table from level 0 on; negative levels stand behind, where a negative index finds them."""
    last = first + len(table) - 1
    out = np.zeros(max(last, 0) + 1 + max(-first, 0), dtype=np.float32)
    out[np.arange(first, last + 1)] = table
    return out


def counts_of(stored: npt.NDArray[np.integer], low: int, high: int) -> npt.NDArray[np.int64]:
    """Pixels of each level from ``low`` to ``high``, between which all levels lie, ``[high - low + 1]``."""
    if stored.dtype == np.uint16:
        # OpenCV's histogram is nine times faster than numpy's, and exact up to 2^24 pixels a level.
        rows = max(1, 2**23 // stored.shape[1])
        found = np.zeros(high + 1, dtype=np.int64)
        for start in range(0, len(stored), rows):
            part = cv2.calcHist([stored[start : start + rows]], [0], None, [high + 1], [0, high + 1])
            found += part.ravel().astype(np.int64)
        return found[low:]
    levels = stored.astype(np.int64).ravel() - low
    return np.bincount(levels, minlength=high - low + 1).astype(np.int64)
