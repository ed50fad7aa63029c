"""A radiograph in NIfTI: two axes of pixels, turned by the affine as a radiologist looks at it.

Rows go from head to feet (in an axial plane from front to back), columns from the patient's right to the left (in a
lateral view from front to back).
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from nc_medfl.data.dicom.display import to_display
from nc_medfl.data.dicom.quarantine import Rejected
from nc_medfl.data.dicom.reader import MAX_BYTES
from nc_medfl.data.inputs.pictures import check_size, full_range
from nc_medfl.data.picture import MAX_LEVELS, Picture

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Plane:
    """What a NIfTI file holds.

    Attributes:
        stored: integers ``[rows, cols]``, as they were or spread over 16 bits.
        picture: their levels and what they show.
        voi_source: where that comes from.
        aspect: height of a pixel over its width.
        spacing: its height in mm, None where the file doesn't say.
        notes: decisions worth telling.
    """

    stored: npt.NDArray[np.integer[Any]]
    picture: Picture
    voi_source: str
    aspect: float
    spacing: float | None
    notes: tuple[str, ...]


def is_nifti(content: bytes) -> bool:
    """Whether some bytes are NIfTI-1 or NIfTI-2 in one file, possibly gzipped."""
    if content[:2] == _GZIP:
        content = _inflated(content, 2**12)
    return content[344:347] in (b"n+1", b"ni1") or content[4:7] == b"n+2"


def read_plane(content: bytes, min_side: int) -> Plane:
    """Read a NIfTI radiograph.

    8 bits are shown at full range, other values by the header's display range (``cal_min``, ``cal_max``) or else by the
    percentiles that a DICOM file without a window gets.

    Raises:
        Rejected: ``colour``, ``multiframe``, ``too_large``, ``too_small``, ``truncated``, ``undecodable`` or
            ``constant_image``.
    """
    # Loaded only where there is such a file: every reading process would wait for it.
    import nibabel as nib

    if content[:2] == _GZIP:
        content = _inflated(content, MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise Rejected("too_large", "inflates to more than any radiograph of 2^27 pixels")
    try:
        kind = nib.Nifti2Image if content[4:7] == b"n+2" else nib.Nifti1Image
        image: Any = kind.from_stream(io.BytesIO(content))
        shape = tuple(int(n) for n in image.shape)
    except Exception as error:
        raise Rejected("undecodable", "the NIfTI header can't be read") from error
    if image.get_data_dtype().kind not in "iuf":
        raise Rejected("colour", "a NIfTI of colours or complex numbers")
    sides = [n for n in shape if n != 1]
    if len(sides) > 2 or any(n != 1 for n in shape[3:]):
        raise Rejected("multiframe", "more than one plane")
    if len(sides) < 2:
        raise Rejected("too_small", "a line of pixels")
    check_size(sides[0], sides[1], min_side)
    needed = int(image.dataobj.offset) + int(np.prod(shape)) * image.get_data_dtype().itemsize
    if len(content) < needed:
        raise Rejected("truncated", "the NIfTI file ends before its pixels do")
    try:
        plane, zooms = _turned(image)
    except Exception as error:
        raise Rejected("undecodable", "the NIfTI pixels can't be read") from error
    return _shown(plane, zooms, image)


def _turned(image: Any) -> tuple[npt.NDArray[Any], tuple[float, float]]:
    """Pixels as they are looked at, and height and width of one."""
    from nibabel.orientations import apply_orientation, io_orientation

    # Axes of time and the like, of one step each.
    data = np.asarray(image.dataobj).reshape(image.shape[:3])
    zooms = [float(z) for z in image.header.get_zooms()] + [1.0, 1.0]
    if data.ndim == 2:
        data = data[:, :, None]
    # Right, anterior, superior: index grows to the patient's left-to-right, back-to-front, feet-to-head.
    orientation = io_orientation(image.affine)
    turned = apply_orientation(data, orientation)
    sizes = [0.0, 0.0, 0.0]
    for axis in range(3):
        sizes[int(orientation[axis, 0])] = zooms[axis]
    through = next(axis for axis in (1, 2, 0) if turned.shape[axis] == 1)
    across, down = {1: (0, 2), 2: (0, 1), 0: (1, 2)}[through]
    plane = np.take(turned, 0, axis=through)
    # The two left are in the order (across, down); both are looked at from their far end.
    return np.ascontiguousarray(plane.T[::-1, ::-1]), (sizes[down], sizes[across])


def _shown(plane: npt.NDArray[Any], zooms: tuple[float, float], image: Any) -> Plane:
    notes: list[str] = []
    if not np.issubdtype(plane.dtype, np.integer) or int(plane.max()) - int(plane.min()) >= MAX_LEVELS:
        plane, low, step = _spread(plane)
        notes.append("values spread over 16 bits")
    else:
        low, step = 0.0, 1.0
    usable = min(zooms) > 0 and 0.1 <= zooms[0] / zooms[1] <= 10
    units = image.header.get_xyzt_units()[0]
    spacing = zooms[0] if usable and units == "mm" else None
    aspect = zooms[0] / zooms[1] if usable else 1.0
    header = Dataset()
    bottom, top = float(image.header["cal_min"]), float(image.header["cal_max"])
    if plane.dtype == np.uint8 and not top > bottom:
        return Plane(plane, full_range(plane), "full_range", aspect, spacing, tuple(notes))
    if top > bottom:
        header.VOILUTFunction = "LINEAR_EXACT"
        # A decimal string of DICOM has 16 characters at most.
        header.WindowCenter = f"{((bottom + top) / 2 - low) / step:.9g}"
        header.WindowWidth = f"{(top - bottom) / step:.9g}"
        notes.append("shown by the header's display range")
    display = to_display(plane, header, inverted=False)
    return Plane(plane, display.picture, display.voi_source, aspect, spacing, (*notes, *display.notes))


def _spread(plane: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint16], float, float]:
    """Values over 16 bits, the lowest of them, and how much one step is."""
    values = plane.astype(np.float64)
    seen = values[np.isfinite(values)]
    if not seen.size or seen.min() == seen.max():
        raise Rejected("constant_image", "all pixels have one value")
    low, step = float(seen.min()), float(seen.max() - seen.min()) / 65535
    levels = np.rint((np.nan_to_num(values, nan=low, posinf=float(seen.max()), neginf=low) - low) / step)
    return levels.astype(np.uint16), low, step


def _inflated(content: bytes, most: int) -> bytes:
    """The first bytes of a gzip stream.

    Raises:
        Rejected: ``truncated`` or ``undecodable``.
    """
    inflater = zlib.decompressobj(31)
    try:
        out = inflater.decompress(content, most)
    except zlib.error as error:
        raise Rejected("undecodable", "the gzip stream is damaged") from error
    if len(out) < most and not inflater.eof:
        raise Rejected("truncated", "the gzip stream ends early")
    return out
