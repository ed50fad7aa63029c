"""Unpacked bytes of tars and zip entries, read forwards: seeking back begins anew, and nothing is kept."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from nc_medfl.data.dicom.quarantine import Outcome

_PIECE = 2**20
#: Most memory for unpacking xz, bytes: that of its highest preset and some.
_XZ_MEMORY = 2**27
#: What reading a damaged archive may raise.
DAMAGE: tuple[type[BaseException], ...] = (
    *(EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError, IndexError, KeyError, MemoryError),
)


class Forward:
    """A binary stream that is read forwards.

    Args:
        begin: opens the stream at its beginning.
        most: bytes that may be passed over or read, all in all.
        longest: bytes that may be asked for at once.

    Raises:
        tarfile.ReadError: on reading, where a limit is reached.
    """

    def __init__(self, begin: Callable[[], IO[bytes]], *, most: float = float("inf"), longest: int = 2**63) -> None:
        self._begin = begin
        self._stream = begin()
        self._at = 0
        self._most = most
        self._longest = longest

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def read(self, size: int) -> bytes:
        """As many bytes, fewer at the end."""
        if not 0 <= size <= self._longest:
            raise tarfile.ReadError("a header longer than any")
        self._check(self._at + size)
        # In pieces: a size that is only claimed takes no memory.
        pieces = []
        while size > 0 and (piece := self._stream.read(min(size, _PIECE))):
            pieces.append(piece)
            size -= len(piece)
            self._at += len(piece)
        return b"".join(pieces)

    def seek(self, offset: int) -> None:
        """Go to a byte, or to the end if it lies beyond."""
        if offset < self._at:
            self.close()
            self._stream, self._at = self._begin(), 0
        self._check(offset)
        if isinstance(self._stream, io.BufferedReader) and isinstance(self._stream.raw, io.FileIO):
            self._at = self._stream.seek(offset)
            return
        while self._at < offset and (piece := self._stream.read(min(offset - self._at, _PIECE))):
            self._at += len(piece)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def _check(self, offset: int) -> None:
        if offset > self._most:
            raise Bomb("unpacks to more than an archive of its size may")


class ForwardOnly(Forward):
    """A stream that refuses to go back, as a tar does whose headers lie, and remembers what was read last."""

    last: bytes = b""

    def read(self, size: int) -> bytes:
        """As many bytes, fewer at the end."""
        self.last = super().read(size)
        return self.last

    def seek(self, offset: int) -> None:
        """Go forward to a byte.

        Raises:
            tarfile.ReadError: if it lies behind.
        """
        if offset < self.tell():
            raise tarfile.ReadError("headers that go round in a circle")
        super().seek(offset)


class Bomb(tarfile.ReadError):
    """An archive that unpacks to more than is reasonable."""


class _Xz(io.RawIOBase):
    """An xz file, unpacked with a limit on memory, which the standard library's own reader doesn't have."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._start()

    def _start(self) -> None:
        self._unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._unpacker.eof:
                # Several streams may follow each other, with zeros between them.
                rest = self._unpacker.unused_data.lstrip(b"\0") or self._file.read(_PIECE).lstrip(b"\0")
                if not rest:
                    return 0
                self._start()
            else:
                rest = self._file.read(2**16) if self._unpacker.needs_input else b""
                if not rest and self._unpacker.needs_input:
                    raise EOFError("the xz stream ends early")
            piece = self._unpacker.decompress(rest, len(buffer))
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_unpacked(path: Path) -> IO[bytes]:
    """Open a tar, unpacked by what its first bytes say it is."""
    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.open(path))
    if magic[:3] == b"BZh":
        return bz2.open(path)
    if magic == b"\xfd7zXZ\0":
        return io.BufferedReader(_Xz(path), _PIECE)
    return path.open("rb")


def flaw_of(error: BaseException) -> tuple[Outcome, str] | None:
    """What a failure says about an archive; None if it is not about the archive but about the disk."""
    # "Invalid argument" is a place before the beginning that a broken header names, not the disk's doing.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return None
    if isinstance(error, (Bomb, MemoryError)):
        return "too_large", "the archive unpacks to more than one of its size may"
    if isinstance(error, EOFError) or "unexpected end" in str(error) or "ended before" in str(error):
        return "truncated", "the archive ends early"
    if isinstance(error, NotImplementedError):
        return "undecodable", "packed in a way that Python doesn't unpack; unpack the archive first"
    return "undecodable", f"the archive is damaged ({type(error).__name__})"
