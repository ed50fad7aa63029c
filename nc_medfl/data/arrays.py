"""Arrays in files."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import numpy.typing as npt


def write_array(stream: BinaryIO, images: npt.NDArray[np.uint8]) -> None:
    """Write an array as ``numpy.save`` does, but with the system's own error where the disk is full."""
    images = np.ascontiguousarray(images)
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(images))
    stream.write(images.data)


def write_header(stream: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write what :func:`write_array` puts before the bytes of an array of that shape."""
    np.lib.format.write_array_header_1_0(
        stream, {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": shape}
    )
