"""From stored values to what a radiologist sees: modality LUT, VOI LUT or window, polarity.

Everything is worked out on the grey levels that occur and then looked up, so precision is float64 and the
cost is one table look-up a pixel. The order follows PS3.3 C.11.1, C.11.2 and PS3.4 N.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nc_medfl.data.dicom.deidentify import each_number, integer, numbers, text, value
from nc_medfl.data.dicom.quarantine import Rejected
from nc_medfl.data.picture import MAX_LEVELS, Picture, counts_of, extremes

Floats = npt.NDArray[np.float64]

#: Percentiles of the values that become black and white where a header gives no usable window.
PERCENTILES = (0.5, 99.5)
#: A display image whose percentiles lie closer together than this shows nothing.
DEGENERATE = 0.02
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True)
class Display:
    """A display image and how it came about.

    Attributes:
        picture: grey levels and what they show, bone bright.
        voi_source: ``voi_lut``, ``window:LINEAR``, ``window:LINEAR_EXACT``, ``window:SIGMOID`` or ``percentile``.
        inverted: whether the photometric interpretation was MONOCHROME1.
        notes: decisions worth telling.
    """

    picture: Picture
    voi_source: str
    inverted: bool
    notes: tuple[str, ...]

    @property
    def pixels(self) -> npt.NDArray[np.float32]:
        """The display image at full size, float32 ``[rows, cols]`` in [0, 1]."""
        return self.picture.display()


@dataclass(frozen=True)
class Lut:
    """A look-up table (PS3.3 C.11.1.1): ``data[0]`` belongs to input ``first``, inputs outside are clamped."""

    first: float
    data: Floats
    top: float

    def __call__(self, x: Floats) -> Floats:
        index = np.clip(np.rint(x - self.first), 0, len(self.data) - 1).astype(np.int64)
        out: Floats = self.data[index]
        return out


def window(x: Floats, center: float, width: float, function: str = "LINEAR") -> Floats:
    """Apply a window to modality values (PS3.3 C.11.2.1.2, C.11.2.1.3), output range [0, 1].

    Args:
        x: modality values, any shape.
        center: Window Center.
        width: Window Width; at least 1 for LINEAR, above 0 for the others.
        function: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.

    Raises:
        ValueError: if the width is too small for the function, or the function is unknown.
    """
    if function not in _FUNCTIONS or width <= 0 or (function == "LINEAR" and width < 1):
        raise ValueError(f"no window of function {function} and width {width:g}")
    if function == "SIGMOID":
        # Beyond 60 the exponential saturates in float64 anyway, and would overflow much later.
        out: Floats = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - center) / width, -60.0, 60.0)))
        return out
    if function == "LINEAR_EXACT":
        return np.clip((x - center) / width + 0.5, 0.0, 1.0)
    if width == 1:
        return np.where(x <= center - 0.5, 0.0, 1.0)
    return np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)


def to_display(
    stored: npt.NDArray[np.generic], dataset: Any, *, inverted: bool, span: tuple[int, int] | None = None
) -> Display:
    """Turn stored values into the display image.

    Args:
        stored: integer ``[rows, cols]``.
        dataset: the header: rescale or modality LUT, VOI LUT or windows, padding.
        inverted: whether the photometric interpretation is MONOCHROME1.
        span: the lowest and the highest stored value, where that is known.

    Raises:
        Rejected: ``constant_image`` if all pixels but padding have one value.
    """
    picture, levels = _grey_levels(stored, span)
    padding = _is_padding(levels, dataset)
    census = _Census(picture, padding)
    if len(levels) < 2 or (padding.any() and np.count_nonzero(census.counts) < 2):
        raise Rejected("constant_image", "all pixels have one value")
    notes: list[str] = ["pixel padding left out"] if padding.any() else []
    units = modality_values(levels, dataset, notes)
    shown, source = _voi(units, census, dataset, notes)
    if inverted:
        shown = 1.0 - shown
        notes.append("MONOCHROME1 inverted")
    shown[padding] = 0.0
    picture = replace(picture, table=shown.astype(np.float32), smooth=picture.smooth and not padding.any())
    return Display(picture, source, inverted, tuple(notes))


def modality_values(levels: Floats, dataset: Any, notes: list[str]) -> Floats:
    """Modality LUT Sequence, or slope and intercept, of stored values (PS3.3 C.11.1)."""
    for item in _items(dataset, "ModalityLUTSequence"):
        lut = read_lut(item, _little_endian(dataset), signed_input=_signed(dataset))
        if lut is not None:
            notes.append("modality LUT")
            return lut(levels)
        notes.append("modality LUT unusable, left out")
    slope, intercept = numbers(dataset, "RescaleSlope"), numbers(dataset, "RescaleIntercept")
    factor = slope[0] if slope else 1.0
    if factor == 0:
        notes.append("rescale slope 0, taken as 1")
        factor = 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        units: Floats = levels * factor + (intercept[0] if intercept else 0.0)
        usable = np.isfinite(units.max() - units.min())
    if not usable:
        notes.append("rescale beyond all numbers, left out")
        return levels
    return units


def read_lut(item: Any, little_endian: bool, *, signed_input: bool) -> Lut | None:
    """Read a LUT item (LUT Descriptor and LUT Data), or None where it is short or malformed.

    Args:
        item: the sequence item.
        little_endian: byte order of LUT Data given as bytes.
        signed_input: whether the first input value may be negative.
    """
    descriptor = numbers(item, "LUTDescriptor")
    raw = value(item, "LUTData")
    if len(descriptor) != 3 or raw is None:
        return None
    entries, first, bits = int(descriptor[0]) % 2**16 or 2**16, int(descriptor[1]), int(descriptor[2])
    if not 1 <= bits <= 16:
        return None
    if signed_input and first >= 2**15:
        first -= 2**16
    data = _lut_data(raw, entries, little_endian)
    if data is None or len(data) < entries:
        return None
    data = data[:entries]
    return Lut(float(first), data, max(2.0**bits - 1, float(data.max())))


def _lut_data(raw: Any, entries: int, little_endian: bool) -> Floats | None:
    if isinstance(raw, bytes):
        words = np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<u2" if little_endian else ">u2")
        if len(raw) >= 2 * entries:
            return words.astype(np.float64)
        # Two entries a word, the first in its lower byte; an odd last byte stands alone.
        return np.frombuffer(words.astype("<u2").tobytes() + raw[len(words) * 2 :], dtype="u1").astype(np.float64)
    try:
        data = np.atleast_1d(np.asarray(raw, dtype=np.float64))
    except (TypeError, ValueError):
        return None
    return np.where(data < 0, data + 2**16, data)


class _Census:
    """How many pixels have each grey level, padding left out. Counting costs as much as all that follows."""

    def __init__(self, picture: Picture, padding: npt.NDArray[np.bool_]) -> None:
        self._picture = picture
        self._padding = padding

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """Of all pixels, ``[K]``."""
        return self._count(self._picture.stored)

    def shows_something(self, shown: Floats) -> bool:
        """Whether the percentiles of what is shown are :data:`DEGENERATE` or more apart.

        Every sixteenth row tells, where so many of its pixels are dark, and so many bright, that they alone make up
        the percentiles of all.
        """
        sample = self._count(np.ascontiguousarray(self._picture.stored[::16]))
        enough = int(PERCENTILES[0] / 100 * self._picture.stored.size) + 2
        if 2 * enough <= sample.sum():
            order = np.argsort(shown, kind="stable")
            below = np.cumsum(sample[order])
            dark, bright = np.searchsorted(below, (enough - 1, below[-1] - enough), side="right")
            if shown[order[bright]] - shown[order[dark]] >= DEGENERATE:
                return True
        low, high = _percentiles(shown, self.counts)
        return high - low >= DEGENERATE

    def _count(self, stored: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        first = self._picture.first
        return np.where(self._padding, 0, counts_of(stored, first, first + len(self._padding) - 1))


def _voi(units: Floats, census: _Census, dataset: Any, notes: list[str]) -> tuple[Floats, str]:
    """Display values of each grey level, and where they come from."""
    shown, source = _voi_of_header(units, dataset, notes)
    if shown is not None:
        if census.shows_something(shown):
            return shown, source
        notes.append(f"{source} leaves a degenerate image, so percentiles")
    low, high = _percentiles(units, census.counts)
    if low == high:
        seen = units[census.counts > 0]
        low, high = float(seen.min()), float(seen.max())
    # A modality LUT can map all grey levels to one value: then nothing is to be seen.
    if low == high:
        raise Rejected("constant_image", "all pixels have one modality value")
    return np.clip((units - low) / (high - low), 0.0, 1.0), "percentile"


def _voi_of_header(units: Floats, dataset: Any, notes: list[str]) -> tuple[Floats | None, str]:
    items = _items(dataset, "VOILUTSequence")
    for item in items:
        lut = _voi_lut(item, units, dataset)
        if lut is not None:
            return lut(units) / lut.top, "voi_lut"
    if items:
        notes.append("VOI LUT short or malformed, so percentiles")
        return None, ""
    function = text(dataset, "VOILUTFunction").upper() or "LINEAR"
    if function not in _FUNCTIONS:
        notes.append("unknown VOI LUT function, taken as LINEAR")
        function = "LINEAR"
    for center, width in zip(each_number(dataset, "WindowCenter"), each_number(dataset, "WindowWidth"), strict=False):
        if math.isfinite(center) and (width >= 1 or (width > 0 and function != "LINEAR")):
            return window(units, center, width, function), f"window:{function}"
    return None, ""


def _voi_lut(item: Any, units: Floats, dataset: Any) -> Lut | None:
    """A VOI LUT, whose first input is signed where pixels are or where the modality transformation makes it so.

    Implicit encoding and many writers give it as an unsigned number all the same. Then a first input above all values
    that occur is a negative one, if rescaling can give negative values at all.
    """
    lut = read_lut(item, _little_endian(dataset), signed_input=_signed(dataset) or bool(units.min() < 0))
    if lut is None or lut.first < 2**15 or lut.first <= units.max():
        return lut
    rescale = numbers(dataset, "RescaleSlope")[:1] + numbers(dataset, "RescaleIntercept")[:1]
    return replace(lut, first=lut.first - 2**16) if any(term < 0 for term in rescale) else lut


def _percentiles(values: Floats, counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The :data:`PERCENTILES` of all pixels, interpolated between neighbours as numpy's percentiles are."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    ranks = np.asarray(PERCENTILES) / 100 * (below[-1] - 1)
    under = values[order[np.searchsorted(below, np.floor(ranks), side="right")]]
    over = values[order[np.searchsorted(below, np.ceil(ranks), side="right")]]
    low, high = under + (ranks - np.floor(ranks)) * (over - under)
    return float(low), float(high)


def _grey_levels(stored: npt.NDArray[np.generic], span: tuple[int, int] | None) -> tuple[Picture, Floats]:
    """The picture without a table yet, and its grey levels ``[K]``."""
    empty = np.zeros(0, dtype=np.float32)
    integers = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    low, high = span or extremes(integers)
    if high - low < MAX_LEVELS:
        return Picture(integers, low, empty), np.arange(low, high + 1.0)
    found, places = np.unique(integers, return_inverse=True)
    ranks = places.reshape(integers.shape).astype(np.int64)
    return Picture(ranks, 0, empty, smooth=False), found.astype(np.float64)


def _is_padding(levels: Floats, dataset: Any) -> npt.NDArray[np.bool_]:
    """Which grey levels are padding (PS3.3 C.7.5.1.1.2), a value or a range that includes its ends."""
    first = integer(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(len(levels), dtype=bool)
    limit = integer(dataset, "PixelPaddingRangeLimit")
    ends = [_as_stored(first, dataset), _as_stored(first if limit is None else limit, dataset)]
    return (levels >= min(ends)) & (levels <= max(ends))


def _as_stored(padding: int, dataset: Any) -> int:
    """The padding value as pixels are kept, whichever of US and SS it was written as.

    One that BitsStored bits don't hold is none of the pixels', and is left as it is.
    """
    pattern: int = padding % 2**16 if -(2**15) <= padding < 2**16 else padding
    if not _signed(dataset):
        return pattern
    bits = integer(dataset, "BitsStored") or 16
    if bits < 16 and 1 << (bits - 1) <= pattern < 1 << bits:  # two's complement of BitsStored bits
        return pattern - (1 << bits)
    return pattern - 2**16 if 2**15 <= pattern < 2**16 else pattern


def _signed(dataset: Any) -> bool:
    return integer(dataset, "PixelRepresentation") == 1


def _little_endian(dataset: Any) -> bool:
    try:
        return dataset.original_encoding[1] is not False
    except (AttributeError, TypeError, IndexError):
        return True


def _items(dataset: Any, keyword: str) -> list[Any]:
    try:
        return list(value(dataset, keyword) or [])
    except TypeError:
        return []
