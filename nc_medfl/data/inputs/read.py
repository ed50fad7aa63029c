"""From a file's bytes to a radiograph, by what they are."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from nc_medfl.data.dicom.quarantine import Rejected
from nc_medfl.data.dicom.reader import DEFAULT_POLICY, Policy, read_bytes
from nc_medfl.data.inputs import pictures
from nc_medfl.data.inputs.nifti import is_nifti, read_plane
from nc_medfl.data.radiograph import Facts, Identity, Radiograph

#: Whose an image is, the label table may say; so that is judged when labels and images are joined.
READING_POLICY = replace(DEFAULT_POLICY, patient_required=False)


def read_content(
    kind: str,
    content: bytes,
    policy: Policy = READING_POLICY,
    *,
    jpeg2000_reduce: int = 0,
) -> Radiograph:
    """Read the bytes of a file.

    Args:
        kind: ``dicom``: DICOM and nothing else; ``picture``: PNG, JPEG, TIFF, NIfTI or an array.
        content: of the file.
        policy: which radiographs are wanted.
        jpeg2000_reduce: resolution levels of JPEG 2000 in DICOM to be left out.

    Raises:
        Rejected: with one of the closed list of outcomes.
    """
    if kind == "dicom":
        return read_bytes(content, policy, jpeg2000_reduce=jpeg2000_reduce)
    return read_picture(content, policy.min_side)


def read_picture(content: bytes, min_side: int = DEFAULT_POLICY.min_side) -> Radiograph:
    """Read a picture that is no DICOM; see :mod:`nc_medfl.data.inputs.pictures` and :mod:`.nifti`.

    Args:
        content: of the file.
        min_side: smallest side that is taken, pixels; a MedMNIST array may have any.

    Raises:
        Rejected: with one of the closed list of outcomes.
    """
    if not content:
        raise Rejected("empty_file", "the file has no bytes")
    if content[128:132] == b"DICM":
        raise Rejected("undecodable", "a DICOM file; prepare takes it with --source dicom")
    if is_nifti(content):
        plane = read_plane(content, min_side)
        facts = Facts(
            rows=plane.stored.shape[0],
            cols=plane.stored.shape[1],
            bits=8 * plane.stored.dtype.itemsize,
            photometric="MONOCHROME2",
            spacing=plane.spacing,
            voi_source=plane.voi_source,
        )
        study = hashlib.sha256(content).hexdigest()
        return Radiograph(plane.picture, plane.stored, plane.aspect, facts, Identity(study_uid=study), plane.notes)
    stored, bits, white_is_zero = _stored(content, min_side)
    facts = Facts(
        rows=stored.shape[0],
        cols=stored.shape[1],
        bits=bits,
        photometric="MONOCHROME1" if white_is_zero else "MONOCHROME2",
        inverted=white_is_zero,
        voi_source="full_range",
    )
    picture = pictures.full_range(stored, bits=bits, white_is_zero=white_is_zero)
    study = hashlib.sha256(content).hexdigest()
    return Radiograph(picture, stored, 1.0, facts, Identity(study_uid=study))


def _stored(content: bytes, min_side: int) -> tuple[pictures.Stored, int, bool]:
    """Grey levels, bits of a level, and whether white is zero."""
    if content.startswith(pictures.TIFF):
        return pictures.stored_tiff(content, min_side)
    if content.startswith(pictures.PNG):
        stored = pictures.stored_png(content, min_side)
    elif content.startswith(pictures.JPEG):
        stored = pictures.stored_jpeg(content, min_side)
    elif content.startswith(pictures.NPY):
        stored = pictures.stored_array(content, 1)
    else:
        raise Rejected("undecodable", "neither PNG, JPEG, TIFF nor NIfTI")
    return stored, 8 * stored.dtype.itemsize, False
