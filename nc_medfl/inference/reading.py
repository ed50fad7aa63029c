"""What was given to predict from: files, folders of files and stores, one outcome each."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nc_medfl.errors import UserError
from nc_medfl.inference.description import ModelDescription

if TYPE_CHECKING:
    from nc_medfl.data.radiograph import Radiograph

#: Outcomes beside those of a preparation (:data:`nc_medfl.data.dicom.quarantine.OUTCOMES`).
UNREADABLE, PREPARED_OTHERWISE, EMPTY_STORE = "unreadable", "prepared_otherwise", "empty"

_MANIFEST, _INFO = "manifest.parquet", "prepare.json"
_BATCH = 32


@dataclass(frozen=True)
class Given:
    """One image to be answered, or one file that can't be.

    Attributes:
        file: as it was named; of a store its folder.
        sample_id: of an image in a store, else ``""``.
        outcome: ``ok``, or why there is no image.
        detail: in words, without identifiers.
        square: as prepared, uint8 ``[size, size]``; None where there is no image.
        box: (top, left, height, width) of the picture inside its square.
        patient: groups images of one patient; stays in this process.
        remarks: what its header says against it.
    """

    file: str
    sample_id: str = ""
    outcome: str = "ok"
    detail: str = ""
    square: npt.NDArray[np.uint8] | None = None
    box: tuple[int, int, int, int] | None = None
    patient: str = ""
    remarks: tuple[str, ...] = ()


def read_given(names: Sequence[str], description: ModelDescription, split: str | None = None) -> Iterator[list[Given]]:
    """Read what was given, in order, a batch at a time.

    Args:
        names: files, folders and stores.
        description: of the model; says how images are prepared.
        split: of stores; None for all.

    Raises:
        UserError: if nothing was given, or this package prepares images otherwise than the model needs.
    """
    if not names:
        raise UserError("no file given. Name a radiograph, a folder of them, or a store.")
    for name in names:
        path = Path(name)
        if path.is_dir() and ((path / _MANIFEST).exists() or (path / _INFO).exists()):
            yield from _from_store(path, description, split)
        elif path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            if not files:
                yield [Given(name, outcome=EMPTY_STORE, detail="no file in this folder")]
            for file in files:
                yield [read_file(file, description)]
        else:
            yield [read_file(path, description)]


def read_file(path: Path, description: ModelDescription) -> Given:
    """Read and prepare one file; whatever is wrong with it is its outcome.

    Raises:
        UserError: if this package prepares images otherwise than the model needs.
    """
    from nc_medfl.data.dicom.quarantine import Rejected
    from nc_medfl.data.dicom.reader import MAX_BYTES

    check_reader(description)
    name = str(path)
    try:
        if not path.is_file():
            return Given(name, outcome=UNREADABLE, detail="not an ordinary file" if path.exists() else "no such file")
        if path.stat().st_size > MAX_BYTES:
            return Given(name, outcome="too_large", detail="the file is longer than any radiograph of 2^27 pixels")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        detail = f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"
        return Given(name, outcome=UNREADABLE, detail=detail)
    try:
        radiograph, remarks = _radiograph(content, description.preparation.jpeg2000_reduce)
        square, box = radiograph.picture.fit(description.preparation.size, radiograph.aspect)
    except Rejected as rejected:
        return Given(name, outcome=rejected.outcome, detail=rejected.detail)
    except MemoryError:
        return Given(name, outcome="too_large", detail="not enough memory to decode it")
    except Exception as error:
        detail = f"broken in a way not foreseen ({type(error).__name__})"
        return Given(name, outcome="undecodable", detail=detail)
    patient = radiograph.identity.patient_id or path.name.partition("_")[0]
    return Given(name, square=square, box=box, patient=patient, remarks=remarks)


def check_reader(description: ModelDescription) -> None:
    """Make sure that this package turns files into pixels as that of the training data did.

    Raises:
        UserError: if it doesn't.
    """
    from nc_medfl.data.dicom.reader import READER_VERSION

    if description.preparation.reader != READER_VERSION:
        raise UserError(
            f"the model's images were prepared by reader {description.preparation.reader}, this nc_medfl has reader "
            f"{READER_VERSION}. Use the package that trained it ({description.package_version}), or prepare and train "
            "again."
        )


def _radiograph(content: bytes, jpeg2000_reduce: int) -> tuple[Radiograph, tuple[str, ...]]:
    """A radiograph, and what its header says against it: that is told, and the pixels are judged all the same."""
    from nc_medfl.data.dicom.quarantine import Rejected
    from nc_medfl.data.dicom.reader import (
        DEFAULT_POLICY,
        check_person,
        check_picture,
        check_size,
        check_wanted,
        decode,
        parse,
    )
    from nc_medfl.data.inputs.read import READING_POLICY, read_picture

    settle_quietly()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values of the header
        if not _is_dicom(content):
            return read_picture(content), ()
        dataset = parse(content)
        syntax = check_picture(dataset)
        check_size(dataset, DEFAULT_POLICY)
        remarks: tuple[str, ...] = ()
        try:
            check_wanted(dataset, READING_POLICY)
        except Rejected as rejected:
            if rejected.outcome != "body_part" and _modality(dataset) not in READING_POLICY.doubtful_modalities:
                raise
            remarks = (f"{rejected.outcome}: {rejected.detail}",)
        radiograph = decode(dataset, syntax, jpeg2000_reduce=jpeg2000_reduce)
        check_person(dataset, READING_POLICY)
        return radiograph, remarks


def _modality(dataset: object) -> str:
    return str(getattr(dataset, "Modality", "") or "").upper()


def _is_dicom(content: bytes) -> bool:
    # Without its mark only a file that is no picture can be DICOM.
    pictures = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"\x93NUMPY", b"\x1f\x8b")
    nifti = content[344:348] in (b"n+1\0", b"ni1\0") or content[4:8] in (b"n+2\0", b"ni2\0")
    return content[128:132] == b"DICM" or not (content.startswith(pictures) or nifti or not content)


def settle_quietly() -> None:
    """No chatter while reading: libraries' remarks quote headers."""
    import pydicom

    for library in ("pydicom", "tifffile", "nibabel"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def _from_store(folder: Path, description: ModelDescription, split: str | None) -> Iterator[list[Given]]:
    from nc_medfl.data.store import open_store

    name = str(folder)
    try:
        found = prepared_otherwise(folder, description)
        if found:
            yield [Given(name, outcome=PREPARED_OTHERWISE, detail=found)]
            return
        store = open_store(folder)
    except UserError as error:
        yield [Given(name, outcome=UNREADABLE, detail=str(error))]
        return
    rows = np.arange(len(store)) if split is None else store.positions(split)
    if not len(rows):
        yield [Given(name, outcome=EMPTY_STORE, detail="no image in this split of the store")]
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        try:
            squares = store.images(part)
        except UserError as error:
            yield [Given(name, outcome=UNREADABLE, detail=str(error))]
            return
        about = store.manifest.iloc[part]
        yield [
            Given(
                name,
                sample_id=str(sample),
                square=square,
                box=_box(str(box)),
                patient=str(patient),
            )
            for sample, square, box, patient in zip(
                about["sample_id"], squares, about["pad_box"], about["patient_key"], strict=True
            )
        ]


def _box(text: str) -> tuple[int, int, int, int] | None:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        return None
    top, left, height, width = map(int, parts)
    return top, left, height, width


def prepared_otherwise(folder: Path, description: ModelDescription) -> str:
    """How a store was prepared otherwise than the model needs, ``""`` where it was not.

    Raises:
        UserError: if its ``prepare.json`` can't be read.
    """
    try:
        info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
        found, settings = str(info["settings_hash"]), dict(info["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: {_INFO} is missing or damaged. Run 'nc-medfl prepare' again.") from error
    wanted = description.preparation
    if found == wanted.settings_hash:
        return ""
    for key in ("size", "reader", "jpeg2000_reduce"):
        if settings.get(key) != getattr(wanted, key):
            return f"{key} {settings.get(key)}, the model needs {getattr(wanted, key)}"
    if info.get("vocabulary_fingerprint") != description.fingerprints.get("vocabulary"):
        return "labelled for other findings than the model's"
    return "its settings_hash is not that of the training data"
