"""One radiograph as it was read: display pixels, facts that may be kept, and identifiers that may not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nc_medfl.data.picture import Picture


@dataclass(frozen=True, slots=True)
class Identity:
    """What leads back to a person. It goes to ``site_private`` or through a keyed hash, nowhere else."""

    patient_id: str = ""
    study_uid: str = ""
    sop_uid: str = ""
    accession: str = ""
    study_date: str = ""  # YYYYMMDD


@dataclass(frozen=True, slots=True)
class Facts:
    """The whitelist: closed terms and numbers only (see :mod:`nc_medfl.data.manifest` for their meaning)."""

    rows: int
    cols: int
    modality: str = ""
    view: str = ""
    spacing: float | None = None
    bits: int = 8
    photometric: str = ""
    inverted: bool = False
    transfer_syntax: str = ""
    lossy: bool | None = None
    voi_source: str = ""
    burned_in: str = "unknown"
    sex: str = ""
    age: float | None = None


@dataclass(frozen=True)
class Radiograph:
    """A readable radiograph.

    Attributes:
        picture: grey levels and what they show; bone is bright, air is dark.
        stored: the decoded values, integer ``[rows, cols]``.
        aspect: physical height of a pixel over its width.
        facts: what may stand in the manifest.
        identity: what may not.
        notes: decisions taken while reading, without identifiers.
    """

    picture: Picture
    stored: npt.NDArray[np.generic]
    aspect: float
    facts: Facts
    identity: Identity
    notes: tuple[str, ...] = ()

    @cached_property
    def pixel_sha256(self) -> str:
        """Hash of the decoded values (:func:`pixel_hash`)."""
        return pixel_hash(self.stored)

    @property
    def pixels(self) -> npt.NDArray[np.float32]:
        """The display image at full size, float32 ``[rows, cols]`` in [0, 1]."""
        return self.picture.display()


def pixel_hash(stored: npt.NDArray[np.generic]) -> str:
    """SHA-256 of decoded values and their shape, the same for every lossless encoding of a picture.

    Over the text ``ROWSxCOLS:TYPE:`` and the values, row by row and little endian, in the first TYPE of ``<u2``,
    ``<i2`` and ``<i8`` that holds them all.

    Args:
        stored: integer ``[rows, cols]``, any width and byte order.
    """
    narrow = stored.dtype.kind == "u" and stored.dtype.itemsize <= 2
    low, high = (0, 1) if narrow else (int(stored.min()), int(stored.max()))
    kind = "<u2" if low >= 0 and high < 2**16 else "<i2" if low >= -(2**15) and high < 2**15 else "<i8"
    values = np.ascontiguousarray(stored, dtype=kind)
    digest = hashlib.sha256(f"{stored.shape[0]}x{stored.shape[1]}:{kind}:".encode())
    digest.update(values.data)
    return digest.hexdigest()
