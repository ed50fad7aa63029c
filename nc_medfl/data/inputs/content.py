"""The bytes of a file, be it plain or a member of an archive.

An archive stays open between members, and a compressed one is read on from where it stands: members asked for in
the order of :func:`nc_medfl.data.inputs.files.reading_order` cost one pass over it.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from nc_medfl.data.dicom.quarantine import Rejected
from nc_medfl.data.dicom.reader import MAX_BYTES
from nc_medfl.data.inputs.archives import list_members, stamp_of
from nc_medfl.data.inputs.files import Place, SourceFile
from nc_medfl.data.inputs.unpack import DAMAGE, Forward, flaw_of, open_unpacked
from nc_medfl.errors import UserError

_TOO_LONG = "the file is longer than any radiograph of 2^27 pixels"


class _Tar:
    """A tar, plain or compressed."""

    def __init__(self, path: Path) -> None:
        self._stream = Forward(partial(open_unpacked, path))

    def read(self, place: Place) -> bytes:
        self._stream.seek(place.start)
        return self._stream.read(place.size)

    def close(self) -> None:
        self._stream.close()


class _Zip:
    """A zip, or an ``.npz`` whose entries are arrays of images."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        self._entries = self._archive.infolist()
        self._stack: tuple[int, Forward] | None = None

    def read(self, place: Place) -> bytes:
        if place.shape:
            return _npy_header(place) + self._image(place)
        with self._archive.open(self._entries[place.entry]) as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise Rejected("too_large", _TOO_LONG)
        return content

    def _image(self, place: Place) -> bytes:
        if self._stack is None or self._stack[0] != place.entry:
            self._close_stack()
            self._stack = place.entry, Forward(partial(self._archive.open, self._entries[place.entry]))
        stream = self._stack[1]
        stream.seek(place.start)
        return stream.read(place.size)

    def _close_stack(self) -> None:
        if self._stack is not None:
            self._stack[1].close()

    def close(self) -> None:
        self._close_stack()
        self._archive.close()


class _Here(threading.local):
    """The archive that a thread has open."""

    path: Path | None = None
    stamp: tuple[int, int] = (0, 0)
    archive: _Tar | _Zip | None = None
    #: Members of the archive that :func:`read_member` last looked into.
    listed: tuple[Path, tuple[int, int], dict[str, SourceFile]] | None = None


_here = _Here()


def content_of(file: SourceFile) -> bytes:
    """The bytes of a file; never more than a radiograph can have, whatever an archive claims.

    Raises:
        Rejected: if the file or its archive is damaged, encrypted or too large.
        OSError: if the disk fails.
        UserError: if an archive isn't any more what was listed.
    """
    if file.flaw is not None:
        raise Rejected(*file.flaw)
    if file.place is None:
        if file.path.stat().st_size > MAX_BYTES:
            raise Rejected("too_large", _TOO_LONG)
        return file.path.read_bytes()
    try:
        content = _open(file.path, file.place).read(file.place)
    except Rejected:
        raise
    except DAMAGE as error:
        close_archive()
        flaw = flaw_of(error)
        if flaw is None:
            raise
        raise Rejected(*flaw) from error
    if len(content) < file.place.size:
        raise Rejected("truncated", "the archive ends early")
    return content


def digest_of(file: SourceFile) -> str:
    """SHA-256 of a file that :func:`content_of` rejects; of a member, which isn't unpacked, that of no bytes."""
    digest = hashlib.sha256()
    if not file.member:
        with file.path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_member(path: Path, member: str) -> bytes:
    """The bytes of a member by its safe name, as :class:`SourceFile` and ``sources.csv`` give it.

    Raises:
        OSError: if the archive can't be read or has no such member.
    """
    stamp = stamp_of(path)
    if _here.listed is None or _here.listed[:2] != (path, stamp):
        found = list_members(path).found
        _here.listed = path, stamp, {m.name: SourceFile(m.name, path, "", m.name, m.place, m.flaw) for m in found}
    file = _here.listed[2].get(member)
    if file is None:
        raise FileNotFoundError(2, "the archive has no such member")
    try:
        return content_of(file)
    except Rejected as rejected:
        raise OSError(5, rejected.detail) from rejected


def close_archive() -> None:
    """Close the archive that this thread has open."""
    archive, _here.archive = _here.archive, None
    if archive is not None:
        archive.close()


def _open(path: Path, place: Place) -> _Tar | _Zip:
    stamp = stamp_of(path)
    if stamp != place.stamp:
        # Not the archive's name, which may name a patient.
        raise UserError("--images: an archive has changed since it was listed. Run again; what is done is kept.")
    if _here.archive is None or (_here.path, _here.stamp) != (path, stamp):
        close_archive()
        _here.archive = _Tar(path) if place.entry < 0 else _Zip(path)
        _here.path, _here.stamp = path, stamp
    return _here.archive


def _npy_header(place: Place) -> bytes:
    """What makes the bytes of one image an ``.npy``."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": place.dtype, "fortran_order": False, "shape": place.shape})
    return buffer.getvalue()
