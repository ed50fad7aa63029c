"""How one file is judged, and every decision taken on the way, without identifiers.

The same steps as :mod:`nc_medfl.data.dicom.reader`, save that a file that policy rejects is decoded all the same:
whoever asks wants to see what would become of it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

from nc_medfl.data.dicom import deidentify
from nc_medfl.data.dicom.deidentify import integer, numbers, text
from nc_medfl.data.dicom.quarantine import REMEDIES, Outcome, Rejected
from nc_medfl.data.dicom.reader import (
    DEFAULT_POLICY,
    MAX_BYTES,
    Policy,
    check_person,
    check_picture,
    check_size,
    check_wanted,
    decode,
    is_wanted_part,
    parse,
)
from nc_medfl.data.radiograph import Radiograph

#: Outcomes of policy: such a file may well be decoded.
_POLICY = frozenset({"modality", "body_part", "too_small"})
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF"}


@dataclass
class Explanation:
    """What became of a file.

    Attributes:
        outcome: one of the closed list.
        decisions: in the order in which they were taken, in words and numbers that identify nobody.
        rows, cols: of the decoded image; None where nothing could be decoded.
        mean, std: of the display image in [0, 1] at full size (population standard deviation); None where there
            is no display image.
        readable: whether there was a file to be judged at all.
    """

    outcome: Outcome = "ok"
    decisions: list[str] = field(default_factory=list)
    rows: int | None = None
    cols: int | None = None
    mean: float | None = None
    std: float | None = None
    readable: bool = True

    def reject(self, rejected: Rejected) -> None:
        """Note a rejection; the first one is the outcome."""
        if self.outcome == "ok":
            self.outcome = rejected.outcome
        self.decisions.append(str(rejected))

    def to_json(self, file: str) -> dict[str, Any]:
        """As JSON values; the image's numbers only where there is one."""
        head: dict[str, Any] = {"file": file, "outcome": self.outcome, "decisions": self.decisions}
        if self.rows is None:
            return head
        return {**head, "rows": self.rows, "cols": self.cols, "mean": self.mean, "std": self.std}


def explain_file(path: str | Path, policy: Policy = DEFAULT_POLICY) -> Explanation:
    """Judge a file by itself. Nothing is raised: what can't be read is told as a decision too.

    Args:
        path: the file.
        policy: which radiographs are wanted.
    """
    explanation = Explanation()
    try:
        if Path(path).is_dir():
            return _unreadable("a folder; name the files in it")
        if not Path(path).is_file():
            return _unreadable("no such file" if not os.path.lexists(path) else "not an ordinary file")
        if Path(path).stat().st_size > MAX_BYTES:
            raise Rejected("too_large", "the file is longer than any radiograph of 2^27 pixels")
        content = Path(path).read_bytes()
    except Rejected as rejected:
        explanation.reject(rejected)
        return explanation
    except (OSError, ValueError) as error:
        return _unreadable(f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})")
    return explain_bytes(content, policy)


def explain_bytes(content: bytes, policy: Policy = DEFAULT_POLICY) -> Explanation:
    """As :func:`explain_file`, from the bytes of the file."""
    explanation = Explanation()
    try:
        with warnings.catch_warnings():
            # pydicom's warnings quote values of the header.
            warnings.simplefilter("ignore")
            _explain(content, policy, explanation)
    except Rejected as rejected:
        explanation.reject(rejected)
        if rejected.outcome == "not_dicom" and content[128:132] != b"DICM":
            explanation.decisions += _looks_like(content)
    except MemoryError:
        explanation.reject(Rejected("too_large", "not enough memory to decode it"))
    except Exception as error:
        explanation.reject(Rejected("undecodable", f"broken in a way not foreseen ({type(error).__name__})"))
    if explanation.outcome != "ok":
        explanation.decisions.append(REMEDIES[explanation.outcome])
    return explanation


def _explain(content: bytes, policy: Policy, explanation: Explanation) -> None:
    decisions = explanation.decisions
    dataset = parse(content)
    decisions.append("DICOM with a preamble" if content[128:132] == b"DICM" else "DICOM without a preamble")
    decisions.append(_encoding(dataset))
    syntax = check_picture(dataset)
    decisions.append(_picture(dataset))
    decisions.append(_terms(dataset, policy))
    for check in (check_wanted, check_size):
        _note(check, dataset, policy, explanation)
    radiograph = _decoded(dataset, syntax, explanation)
    if radiograph is not None:
        explanation.mean, explanation.std = radiograph.picture.mean_and_deviation()
        decisions.append(_shown(dataset, radiograph))
        decisions += radiograph.notes
    try:
        check_person(dataset)
    except Rejected as rejected:
        explanation.reject(rejected)
    else:
        decisions.append(f"patient stated; burned-in annotation {deidentify.burned_in_of(dataset)}")


def _note(check: Callable[[Dataset, Policy], None], dataset: Dataset, policy: Policy, explanation: Explanation) -> None:
    """Run a check; a rejection by policy is noted, any other ends the explanation."""
    try:
        check(dataset, policy)
    except Rejected as rejected:
        if rejected.outcome not in _POLICY:
            raise
        explanation.reject(rejected)


def _decoded(dataset: Dataset, syntax: str, explanation: Explanation) -> Radiograph | None:
    """The radiograph, or None where all its pixels have one value."""
    rows, cols = integer(dataset, "Rows"), integer(dataset, "Columns")
    try:
        radiograph = decode(dataset, syntax)
    except Rejected as rejected:
        if rejected.outcome != "constant_image":
            raise
        explanation.reject(rejected)
        explanation.rows, explanation.cols = rows, cols
        return None
    explanation.rows, explanation.cols = radiograph.picture.shape
    return radiograph


def _encoding(dataset: Dataset) -> str:
    uid = UID(text(dataset.file_meta, "TransferSyntaxUID"))
    if not uid:
        return "no transfer syntax stated"
    # An unknown UID is not quoted: anything may stand there.
    return f"transfer syntax {uid.name}" if uid.is_transfer_syntax and uid.name != uid else "transfer syntax unknown"


def _picture(dataset: Dataset) -> str:
    sign = "signed" if integer(dataset, "PixelRepresentation") == 1 else "unsigned"
    bits = f"{integer(dataset, 'BitsStored')} of {integer(dataset, 'BitsAllocated')} bits"
    size = f"{integer(dataset, 'Rows')} x {integer(dataset, 'Columns')} pixels"
    return f"{text(dataset, 'PhotometricInterpretation')}, {size}, {bits}, {sign}"


def _terms(dataset: Dataset, policy: Policy) -> str:
    modality = deidentify.modality_of(dataset) or ("other" if text(dataset, "Modality") else "empty")
    part = text(dataset, "BodyPartExamined")
    stated = "not stated" if not part else "chest" if is_wanted_part(part, policy) else "other"
    view = deidentify.view_of(text(dataset, "ViewPosition")) or "not stated"
    return f"modality {modality}, body part {stated}, view {view}"


def _shown(dataset: Dataset, radiograph: Radiograph) -> str:
    source = radiograph.facts.voi_source
    slope, intercept = numbers(dataset, "RescaleSlope"), numbers(dataset, "RescaleIntercept")
    rescale = (
        f"rescale {slope[0] if slope else 1:g}, {intercept[0] if intercept else 0:g}; " if slope or intercept else ""
    )
    return f"{rescale}grey levels by {source}; aspect {radiograph.aspect:.4g}"


def _unreadable(why: str) -> Explanation:
    return Explanation("not_dicom", [f"not_dicom: {why}"], readable=False)


def _looks_like(content: bytes) -> list[str]:
    """What a file that is no DICOM seems to be, where that tells what to do."""
    if content.startswith(_ARCHIVES) or content[257:262] == b"ustar":
        return ["looks packed; prepare opens .zip and .tar, also .tar.gz and the like, and judges their members"]
    kind = next((name for mark, name in _PICTURES.items() if content.startswith(mark)), None)
    return [f"looks like a {kind} picture; prepare takes it with --source folder"] if kind else []
