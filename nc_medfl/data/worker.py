"""What a worker process does: read files, fit them into squares, keep them in a chunk on disk.

Imports neither torch nor monai, since every worker pays for it in time and memory.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom

from nc_medfl.data.arrays import write_array
from nc_medfl.data.dicom.quarantine import Outcome, Rejected
from nc_medfl.data.engine import begin_worker, stopping
from nc_medfl.data.inputs.content import content_of, digest_of
from nc_medfl.data.inputs.files import SourceFile, SourceKind
from nc_medfl.data.inputs.read import read_content
from nc_medfl.data.inputs.unreadable import NOT_LISTED, NOTHING, costs_itself, reason, was_read
from nc_medfl.data.memory import keep_freed_blocks
from nc_medfl.data.private import FOLDER, UNREADABLE, WORK, open_private, write_private
from nc_medfl.data.radiograph import Facts, Identity, Radiograph, pixel_hash
from nc_medfl.errors import UserError

_HASHING = ThreadPoolExecutor(1, thread_name_prefix="hashing")


@dataclass(frozen=True)
class Batch:
    """Files for one worker, and the chunk their pixels go to."""

    kind: SourceKind
    size: int
    files: tuple[SourceFile, ...]
    chunk: Path
    jpeg2000_reduce: int = 0

    def singles(self) -> list[Batch]:
        """The same files, a batch and a chunk each."""
        stems = [self.chunk.with_name(f"{self.chunk.stem}-{n}.npy") for n in range(len(self.files))]
        return [replace(self, files=(f,), chunk=chunk) for f, chunk in zip(self.files, stems, strict=True)]


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one file. It names the file and its identifiers: journal and ``site_private`` only.

    Attributes:
        name, bytes, mtime_ns: the file as it was listed; equal ones need not be read again.
        source_sha256: of the file's bytes.
        outcome, detail: how it was judged.
        chunk, row: where its pixels are kept until the store is written.
        pixel_sha256, pad_box, facts, identity: of a file that could be used.
    """

    name: str
    bytes: int
    mtime_ns: int
    source_sha256: str
    outcome: Outcome
    detail: str = ""
    chunk: str = ""
    row: int = -1
    pixel_sha256: str = ""
    pad_box: str = ""
    facts: Facts | None = None
    identity: Identity = field(default_factory=Identity)


def initialise() -> None:
    """Prepare a worker of this machine: stopped by its parent only, silent, and as :func:`settle` says."""
    begin_worker()
    # libpng and the like write there themselves, and some of it is quoted from the file.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    settle()


def settle() -> None:
    """Prepare a process for reading: one thread, no chatter (libraries' remarks quote headers)."""
    keep_freed_blocks()
    # What was imported stays; each collection would look through all of it.
    gc.freeze()
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    for library in ("pydicom", "tifffile", "nibabel"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def read_batch(batch: Batch) -> list[Record]:
    """Read the files of a batch and write the usable ones' squares, whole or not at all, to its chunk."""
    records: list[Record] = []
    squares: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    hashes: dict[int, Future[str]] = {}
    for number, file in enumerate(batch.files):
        if stopping():
            raise InterruptedError("told to stop")
        record, square, stored = _read_file(file, batch, len(squares))
        records.append(record)
        if square is not None and stored is not None:
            squares.append(square)
            # Beside reading the next file, whose own hash is of the same thread: so no more than one picture waits.
            hashes[number] = _HASHING.submit(pixel_hash, stored)
    for number, pixels in hashes.items():
        records[number] = replace(records[number], pixel_sha256=pixels.result())
    if squares:
        temporary = batch.chunk.with_name(f".{batch.chunk.name}.tmp")
        with open_private(temporary) as stream:
            write_array(stream, np.stack(squares))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(batch.chunk)
    return records


def crashed(batch: Batch) -> list[Record]:
    """The record of the one file of a batch that killed its worker."""
    (file,) = batch.files
    size, mtime = _listed(file)
    try:
        digest = hashlib.sha256(content_of(file)).hexdigest()
    except Rejected:
        digest = digest_of(file)
    return [Record(file.name, size, mtime, digest, "undecodable", "the decoder crashed")]


_Read = tuple[Record, np.ndarray[Any, np.dtype[np.uint8]] | None, np.ndarray[Any, np.dtype[np.generic]] | None]


def _read_file(file: SourceFile, batch: Batch, row: int) -> _Read:
    """Of a usable file the record without the hash of its pixels, its square, and its decoded values."""
    size, mtime, digest = 0, 0, ""
    try:
        size, mtime = _listed(file)
        content = content_of(file)
        was_read()
        # Beside decoding, not before it: both leave Python alone for most of their time.
        hashed = _HASHING.submit(lambda: hashlib.sha256(content).hexdigest())
        try:
            radiograph = _read(batch, content)
        finally:
            digest = hashed.result()
    except Rejected as rejected:
        return _rejected(file, batch, (size, mtime), digest, rejected), None, None
    except OSError as error:
        return _unread(file, batch, error), None, None
    square, box = radiograph.picture.fit(batch.size, radiograph.aspect)
    record = Record(
        file.name,
        size,
        mtime,
        digest,
        "ok",
        "; ".join(radiograph.notes),
        batch.chunk.name,
        row,
        "",
        ",".join(map(str, box)),
        radiograph.facts,
        radiograph.identity,
    )
    return record, square, radiograph.stored


def _rejected(file: SourceFile, batch: Batch, listed: tuple[int, int], digest: str, why: Rejected) -> Record:
    if why.outcome == "unreadable":
        return Record(file.name, *NOT_LISTED, NOTHING, why.outcome, why.detail)
    try:
        return Record(file.name, *listed, digest or digest_of(file), why.outcome, why.detail)
    except OSError as error:
        return _unread(file, batch, error)


def _unread(file: SourceFile, batch: Batch, error: OSError) -> Record:
    """The record of a file that the disk doesn't give; never taken for current, so that a rerun tries it again.

    Raises:
        UserError: if more may be lost than this file.
    """
    if costs_itself(file, error):
        return Record(file.name, *NOT_LISTED, NOTHING, "unreadable", reason(error))
    raise _unreadable(file, batch, error) from error


def _unreadable(file: SourceFile, batch: Batch, error: OSError) -> UserError:
    """The error of a share that is gone: at which file stands beside the chunks, since its name may tell."""
    with suppress(OSError):
        write_private(batch.chunk.parent.parent / UNREADABLE, os.fsencode(file.path) + b"\n")
    return UserError(
        f"--images: a file cannot be read ({error.strerror or type(error).__name__}); "
        f"{FOLDER}/{WORK}/{UNREADABLE} under --out says which. Mend that or take it out of the folder, and run again; "
        "what is done is kept."
    )


def _read(batch: Batch, content: bytes) -> Radiograph:
    """Read a file so that whatever is wrong with it is one of the outcomes."""
    try:
        return read_content(batch.kind, content, jpeg2000_reduce=batch.jpeg2000_reduce)
    except (Rejected, OSError):
        raise
    except MemoryError as error:
        raise Rejected("too_large", "not enough memory to decode it") from error
    except Exception as error:
        raise Rejected("undecodable", f"broken in a way not foreseen ({type(error).__name__})") from error


def _listed(file: SourceFile) -> tuple[int, int]:
    status = file.path.stat()
    return status.st_size, status.st_mtime_ns
