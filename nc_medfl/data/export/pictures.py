"""The stored squares as PNG or NIfTI files."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from nc_medfl.data.export import folder as folders
from nc_medfl.data.export.folder import ExportSummary
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError

Progress = Callable[[int, int], None]
Square = npt.NDArray[np.uint8]

#: Views from the side: the picture lies in the sagittal plane.
_LATERAL = frozenset({"LL", "RL", "LATERAL"})
_NIFTI_HEADER, _NIFTI_DATA = 348, 352
_UINT8 = 2
_ALIGNED = 2


def export_png(store: Store, folder: Path | None = None, progress: Progress | None = None) -> ExportSummary:
    """Write every image of a store as an 8-bit grey PNG of the stored square, and ``manifest.csv``.

    Args:
        store: what to export.
        folder: where to; ``export/png`` in the store if None.
        progress: called with (files done, files in all).

    Raises:
        UserError: if the folder can't be written, or a file doesn't read back with the same pixels.
    """
    return _export(store, ("png", ".png"), folder, progress, _png, _read_png)


def export_nifti(store: Store, folder: Path | None = None, progress: Progress | None = None) -> ExportSummary:
    """Write every image of a store as a gzipped NIfTI-1 of one slice, and ``manifest.csv``.

    The array is ``[columns, rows, 1]``, so that a reader of planes gets ``[1, rows, columns]``. The affine is
    :func:`affine_of`; where the spacing isn't known, it is 1 and the unit says so.

    Args, raises: as :func:`export_png`.
    """
    return _export(store, ("nifti", ".nii.gz"), folder, progress, _nifti, _read_nifti)


def _export(
    store: Store,
    kind: tuple[str, str],
    folder: Path | None,
    progress: Progress | None,
    encode: Callable[[Square, Mapping[Any, Any]], bytes],
    read: Callable[[Path], Square],
) -> ExportSummary:
    target, names = folders.begin(store, *kind, folder)
    written, spacing = 0, {}
    for index, (row, square) in enumerate(zip(store.manifest.to_dict("records"), store.each_image(), strict=True)):
        sample = str(row["sample_id"])
        path = target / names[sample]
        written += folders.put(path, encode(square, row))
        if not _reads_back(path, square, read):
            raise folders.mismatch(path)
        if (known := spacing_of(row)) is not None:
            spacing[sample] = known
        if progress:
            progress(index + 1, len(store))
    folders.finish(store, target, names, spacing)
    return ExportSummary(target, len(names), written)


def _reads_back(path: Path, square: Square, read: Callable[[Path], Square]) -> bool:
    try:
        return np.array_equal(read(path), square)
    except (OSError, ValueError, EOFError, struct.error, Image.DecompressionBombError):
        return False


def spacing_of(row: Mapping[Any, Any]) -> float | None:
    """Mm a pixel of the stored square, or None where the source's isn't known.

    The picture keeps its physical shape in the square, so that one number holds for both directions. It is the
    source's spacing, which for a detector (Imager Pixel Spacing) is that at the detector, not in the patient.

    Args:
        row: of the manifest.
    """
    spacing, box = row.get("spacing"), row.get("pad_box")
    if not isinstance(spacing, float) or not spacing > 0 or not isinstance(box, str) or box.count(",") != 3:
        return None
    height = int(box.split(",")[2])
    return float(spacing) * int(row["rows"]) / height if height > 0 and int(row["rows"]) > 0 else None


def affine_of(view: str, spacing: float) -> npt.NDArray[np.float64]:
    """From (column, row, 0) of the picture to millimetres to the right, the front and the head (RAS+).

    A picture taken from the front or the back is shown with the patient's left on its right and the head up, one
    from the side with the patient facing left. That is the custom; whether a film was mirrored isn't known.

    Args:
        view: as in the manifest.
        spacing: mm a pixel.
    """
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[2, 1] = -spacing
    if view in _LATERAL:
        affine[1, 0] = -spacing
        affine[0, 2] = 1.0
    else:
        affine[0, 0] = -spacing
        affine[1, 2] = 1.0
    return affine


def _png(square: Square, row: Mapping[Any, Any]) -> bytes:
    fine, content = cv2.imencode(".png", square)
    if not fine:
        raise UserError(f"sample {row['sample_id']}: OpenCV can't write it as PNG. Reinstall opencv-python-headless.")
    return content.tobytes()


def _read_png(path: Path) -> Square:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        if image.mode != "L":
            raise ValueError("not 8-bit grey")
        return np.asarray(image)


def _nifti(square: Square, row: Mapping[Any, Any]) -> bytes:
    import nibabel as nib

    spacing = spacing_of(row)
    view = row.get("view")
    image = nib.Nifti1Image(square.T[:, :, None], affine_of(view if isinstance(view, str) else "", spacing or 1.0))
    image.header.set_xyzt_units(xyz="mm" if spacing else 0)
    # "Aligned", not "scanner": the plane is what the view says, the place in the scanner isn't known.
    image.set_sform(image.affine, code=_ALIGNED)
    image.set_qform(image.affine, code=_ALIGNED)
    buffer = io.BytesIO()
    # No name and no time in the gzip header: same picture, same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=6, mtime=0) as stream:
        stream.write(image.to_bytes())
    return buffer.getvalue()


def _read_nifti(path: Path) -> Square:
    """Pixels of a NIfTI-1 file as this module writes it, read from the bytes by the format's own offsets."""
    content = gzip.decompress(path.read_bytes())
    (length,) = struct.unpack_from("<i", content, 0)
    dimensions = struct.unpack_from("<8h", content, 40)
    (kind,) = struct.unpack_from("<h", content, 70)
    (offset,) = struct.unpack_from("<f", content, 108)
    if length != _NIFTI_HEADER or kind != _UINT8 or content[344:348] != b"n+1\0" or offset != _NIFTI_DATA:
        raise ValueError("not a NIfTI-1 file of bytes")
    cols, rows = dimensions[1:3]
    return np.frombuffer(content, dtype=np.uint8, count=rows * cols, offset=_NIFTI_DATA).reshape(rows, cols)
