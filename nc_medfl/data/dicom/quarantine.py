"""Why a file is not used: a closed list of outcomes, each with what to do about it."""

from __future__ import annotations

from typing import Literal, get_args

Outcome = Literal[
    "ok",
    "empty_file",
    "not_dicom",
    "dicomdir",
    "no_pixel_data",
    "no_transfer_syntax",
    "multiframe",
    "colour",
    "photometric",
    "modality",
    "body_part",
    "too_small",
    "too_large",
    "truncated",
    "undecodable",
    "constant_image",
    "no_patient_id",
    "burned_in",
    "duplicate_uid",
    "duplicate_pixels",
    "duplicate_image",
    "no_label",
    "withdrawn",
    "unreadable",
]

#: Every outcome a file can have.
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

#: One line a rejecting outcome: what the person who runs the preparation can do.
REMEDIES: dict[Outcome, str] = {
    "ok": "Nothing to do.",
    "empty_file": "Export the file again; it holds no bytes.",
    "not_dicom": "Take the file out of the folder, or name the right --source.",
    "dicomdir": "Nothing to do; a directory file holds no image.",
    "no_pixel_data": "Export the image itself; this object (a report, a state, a plan) has no pixels.",
    "no_transfer_syntax": "Export again with file meta information; without it the encoding can't be known.",
    "multiframe": "Export single-frame radiographs.",
    "colour": "Export the greyscale original instead of a colour capture.",
    "photometric": "Export as MONOCHROME1 or MONOCHROME2.",
    "modality": "Nothing to do if it is no radiograph; else mend Modality (CR, DX, RG) at the source.",
    "body_part": "Nothing to do if it is no chest; else mend BodyPartExamined at the source.",
    "too_small": "Export at full resolution; a side is under the smallest that is taken.",
    "too_large": "Check Rows and Columns; they claim more pixels than a radiograph has.",
    "truncated": "Export or transfer the file again; its pixel data ends early.",
    "undecodable": "Export uncompressed, or check the file; its pixels don't decode.",
    "constant_image": "Check the exposure; every pixel has the same value.",
    "no_patient_id": "Give each file a pseudonymous PatientID; splits by patient need it.",
    "burned_in": "Remove the text burned into the pixels, or leave the image out.",
    "duplicate_uid": "Find out at the source which one is right; another image has this SOP Instance UID.",
    "duplicate_pixels": "Find out at the source whose image it is; another patient has these pixels.",
    "duplicate_image": "Nothing to do; this patient's image is kept once.",
    "no_label": "Add a row for this image to the label table, or leave the image out.",
    "withdrawn": "Nothing to do; the patient or the image was withdrawn. Take the file out of the folder.",
    "unreadable": "Check the file's permissions and the disk, and run again; it is tried anew each time.",
}


class Rejected(Exception):
    """A file that can't be used.

    Args:
        outcome: which of :data:`OUTCOMES`.
        detail: what was seen, in words and numbers that identify nobody.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.outcome: Outcome = outcome
        self.detail = detail

    def __reduce__(self) -> tuple[type[Rejected], tuple[Outcome, str]]:
        return (Rejected, (self.outcome, self.detail))
