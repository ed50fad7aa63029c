"""What is in an archive: a zip, a tar (plain, gzip, bzip2, xz), or MedMNIST's ``.npz``.

Names and sizes are only claims. Names become safe ones; what is claimed to be too large, encrypted or a link is
listed with its flaw; of a damaged archive what can be listed is listed.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np

from nc_medfl.data.dicom.quarantine import Outcome, Rejected
from nc_medfl.data.dicom.reader import MAX_BYTES
from nc_medfl.data.inputs.files import Place
from nc_medfl.data.inputs.names import UniqueNames, safe_name
from nc_medfl.data.inputs.unpack import DAMAGE, Bomb, ForwardOnly, flaw_of, open_unpacked

#: Names of archives end so.
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
NPZ = ".npz"
#: Splits of MedMNIST in the order of its files, by the entry that holds their images.
_SPLITS = {"train_images.npy": "train", "val_images.npy": "val", "test_images.npy": "test"}
#: An archive unpacks to at most so many times its size, or so many bytes, whichever is more.
_RATIO, _LEAST = 200, 2**31
_MOST_MEMBERS = 2**21
#: No header of a tar is longer, bytes.
_LONGEST_HEADER = 2**20
_ENCRYPTED = 1

Flaw = tuple[Outcome, str]
_LINK: Flaw = ("not_dicom", "a link or device in an archive; pack the file itself")
_TOO_LARGE: Flaw = ("too_large", "states more bytes than any radiograph of 2^27 pixels")


@dataclass
class Member:
    """A member: its safe and unique name, where it lies, and what is wrong with it."""

    name: str
    place: Place | None
    flaw: Flaw | None = None


@dataclass
class Members:
    """Members of an archive in its own order, and what is wrong with the archive itself."""

    found: list[Member] = field(default_factory=list)
    flaw: Flaw | None = None


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and modification time (ns)."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def list_members(path: Path, suffixes: Sequence[str] = ()) -> Members:
    """List an archive.

    A compressed tar has no table of contents and is unpacked for it from beginning to end, nothing of it kept.

    Args:
        path: the archive; how its name ends says what it is.
        suffixes: only names that end so (lower case); all where empty.

    Raises:
        OSError: if the disk fails.
    """
    lower = path.name.lower()
    walk = _images_of_npz if lower.endswith(NPZ) else _entries_of_zip if lower.endswith(".zip") else _entries_of_tar
    members = Members()
    names = UniqueNames()
    try:
        for raw, place, flaw in walk(path, stamp_of(path)):
            name = safe_name(raw)
            if name and (not suffixes or name.lower().endswith(tuple(suffixes)) or lower.endswith(NPZ)):
                members.found.append(Member(names.unique(name), place, flaw))
            if len(members.found) > _MOST_MEMBERS:
                raise Bomb("more members than any archive")
    except Rejected as rejected:
        members.flaw = rejected.outcome, rejected.detail
    except DAMAGE as error:
        members.flaw = flaw_of(error)
        if members.flaw is None:
            raise
    return members


_Entries = Iterator[tuple[str, "Place | None", "Flaw | None"]]


def _entries_of_zip(path: Path, stamp: tuple[int, int]) -> _Entries:
    with _open_zip(path) as archive:
        for number, entry in enumerate(archive.infolist()):
            if entry.is_dir():
                continue
            flaw: Flaw | None = None
            if entry.flag_bits & _ENCRYPTED:
                flaw = "undecodable", "encrypted; unpack the archive first"
            elif entry.file_size > MAX_BYTES:
                flaw = _TOO_LARGE
            yield entry.filename, Place(number, 0, entry.file_size, stamp), flaw


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        with path.open("rb") as stream:
            begun = stream.read(4) == b"PK\x03\x04"
        # The directory is at the end: a zip that begins as one and has none was cut short.
        if begun and not _has_directory(path):
            raise Rejected("truncated", "the archive ends early") from error
        raise


def _has_directory(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 2**16 - 22))
        return b"PK\x05\x06" in stream.read()


def _entries_of_tar(path: Path, stamp: tuple[int, int]) -> _Entries:
    stream = ForwardOnly(lambda: open_unpacked(path), most=max(_RATIO * stamp[0], _LEAST), longest=_LONGEST_HEADER)
    try:
        # Mode "r:" wants a stream with read, seek and tell, and reads no member by itself.
        archive = tarfile.TarFile(fileobj=cast("IO[bytes]", stream), mode="r", errors="surrogateescape")
        entry = archive.next()
        while entry is not None:
            if not entry.isdir():
                flaw = _flaw_of_entry(entry)
                yield entry.name, Place(-1, entry.offset_data, entry.size, stamp), flaw
            # It would keep them all.
            archive.members.clear()  # type: ignore[attr-defined]
            entry = archive.next()
        _check_end(stream.last)
    finally:
        stream.close()


def _flaw_of_entry(entry: tarfile.TarInfo) -> Flaw | None:
    if not entry.isreg():
        return _LINK
    if entry.issparse():
        return "undecodable", "a sparse file in an archive; unpack the archive first"
    if entry.size < 0:
        raise tarfile.ReadError("a negative size")
    return _TOO_LARGE if entry.size > MAX_BYTES else None


def _check_end(block: bytes) -> None:
    """Tell the end of a tar, a block of zeros, from a broken header, where tarfile stops just as silently.

    Args:
        block: what it stopped at.
    """
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("unexpected end of data: no end mark")
    if block.strip(b"\0"):
        raise tarfile.ReadError("a broken header")


def _images_of_npz(path: Path, stamp: tuple[int, int]) -> _Entries:
    found = False
    with _open_zip(path) as archive:
        numbers = {entry.filename: number for number, entry in enumerate(archive.infolist())}
        for name, split in _SPLITS.items():
            if name not in numbers:
                continue
            found = True
            with archive.open(name) as stream:
                count, shape, dtype = read_stack_header(stream)
                start = stream.tell()
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            for number in range(count):
                place = Place(numbers[name], start + number * size, size, stamp, dtype, shape)
                yield f"{split}/{number:06d}", place, None
    if not found:
        raise Rejected("undecodable", "no train_images, val_images or test_images in the .npz")


def read_stack_header(stream: IO[bytes]) -> tuple[int, tuple[int, ...], str]:
    """Header of an ``.npy`` of images ``[N, H, W]`` or ``[N, H, W, 3]``, 8 or 16 bits.

    Returns:
        N, shape of one image, and its type. The stream stands at the first image.

    Raises:
        Rejected: ``multiframe`` or ``undecodable``.
        ValueError: if it is no ``.npy``.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.kind != "u" or dtype.itemsize > 2 or fortran:
        raise Rejected("undecodable", "the images in the .npz are no unsigned integers of 8 or 16 bits")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
        raise Rejected("multiframe", "the .npz holds something other than flat images")
    if int(np.prod(shape[1:])) * dtype.itemsize > MAX_BYTES or shape[0] > _MOST_MEMBERS:
        raise Rejected("too_large", "the .npz claims more pixels than any radiographs have")
    return int(shape[0]), tuple(int(side) for side in shape[1:]), dtype.str
