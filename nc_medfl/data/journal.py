"""Work in progress: what has been read since the last complete store, so that nothing is read twice."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from nc_medfl.data.private import WORK, open_private, private_folder, private_subfolder
from nc_medfl.data.records import LAYOUT, line_of, records_in
from nc_medfl.data.worker import Record


class Journal:
    """Records of files already read, and the pixels that the workers left.

    A chunk of pixels is on disk, whole, before its records are journalled.

    Args:
        store: the store being prepared, held by its lock.
        reading: hash of what decides the pixels; work done under another is thrown away.
    """

    def __init__(self, store: Path, reading: str) -> None:
        root = private_subfolder(private_folder(store) / WORK)
        self.folder = root / reading[:16]
        for other in root.glob("*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
        private_subfolder(self.folder)
        for temporary in self.folder.glob(".*.tmp"):
            temporary.unlink(missing_ok=True)
        self.path = self.folder / f"journal-{LAYOUT}.jsonl"
        self._stream: BinaryIO | None = None
        self._end = 0
        # A worker of a killed run may still be writing: its chunks must not have the names of ours.
        self._run = secrets.token_hex(4)
        self._chunks = 0

    def each(self) -> Iterator[tuple[int, Record]]:
        """Where each record begins, and the record; later ones replace earlier ones of the same file.

        A last line cut short by a crash is left out, and so are records whose pixels are lost.
        """
        if not self.path.is_file():
            return
        present = {path.name for path in self.folder.glob("*.npy")}
        for begin, record in records_in(self.path):
            if not record.chunk or record.chunk in present:
                yield begin, record

    def new_chunk(self) -> Path:
        """Where a batch's pixels go."""
        self._chunks += 1
        return self.folder / f"{self._run}-{self._chunks}.npy"

    def append(self, records: Iterable[Record]) -> list[int]:
        """Journal some records, on disk before this returns, and say where each begins."""
        if self._stream is None:
            self._stream = open_private(self.path, append=True)
            # A line cut short must not swallow the next record.
            self._end = self._stream.seek(0, os.SEEK_END) + self._stream.write(b"\n")
        begins = []
        for record in records:
            begins.append(self._end)
            self._end += self._stream.write(line_of(record))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return begins

    def close(self) -> None:
        """Close the journal's file."""
        stream, self._stream = self._stream, None
        if stream is not None:
            # All that was journalled is on disk; what a full disk refused has been told already.
            with suppress(OSError):
                stream.close()
