"""What a site keeps to itself, in ``site_private/``: the salt, the way back to the sources, work in progress."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from nc_medfl.data.worker import Record
from nc_medfl.errors import UserError

FOLDER = "site_private"
SALT = "salt.bin"
#: Published images have published identifiers: a known salt gives everybody the same keys.
PUBLIC_SALT = b"nc_medfl: a public data set needs no secret"
_MIN_SALT = 16


def private_folder(store: Path) -> Path:
    """``site_private`` of a store, made if need be, for its owner only."""
    folder = store / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_private_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV that only its owner may read."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_private(path, buffer.getvalue().encode("utf-8", "surrogateescape"))


def load_salt(store: Path, salt_file: Path | None, *, public: bool) -> bytes:
    """The secret that keys identifiers: the given file, or the store's own, made at the first run.

    Raises:
        UserError: if the file can't be read or holds fewer than 16 bytes.
    """
    if salt_file is None and public:
        return PUBLIC_SALT
    path = salt_file or private_folder(store) / SALT
    if salt_file is None and not path.exists():
        write_private(path, secrets.token_bytes(32))
    try:
        salt = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: the salt cannot be read ({error.strerror}). Make one with: head -c 32 /dev/urandom > FILE"
        ) from error
    if len(salt) < _MIN_SALT:
        raise UserError(f"{path}: a salt needs {_MIN_SALT} bytes or more, this has {len(salt)}. Make a longer one.")
    return salt


class Journal:
    """Records of files already read, so that an interrupted preparation goes on where it stopped.

    A chunk of pixels is on disk, whole, before its records are journalled.

    Args:
        store: the store being prepared.
        settings: hash of what decides the pixels; work done under another is thrown away.
    """

    def __init__(self, store: Path, settings: str) -> None:
        self._root = private_folder(store) / "work"
        self.folder = self._root / settings[:16]
        for other in self._root.glob("*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / "journal.jsonl"
        self._stream: IO[str] | None = None

    def load(self) -> dict[str, Record]:
        """Records by file name. A last line cut short by a crash is left out."""
        records: dict[str, Record] = {}
        if not self._path.is_file():
            return records
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = Record.from_json(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue
            if not record.chunk or (self.folder / record.chunk).is_file():
                records[record.name] = record
        return records

    def free_chunk(self) -> int:
        """A number above that of every chunk there is."""
        numbers = [int(p.stem.split("-")[0]) for p in self.folder.glob("*.npy") if p.stem.split("-")[0].isdigit()]
        return max(numbers, default=-1) + 1

    def append(self, records: Iterable[Record]) -> None:
        """Journal some records, on disk before this returns."""
        if self._stream is None:
            # A line cut short must not swallow the next record.
            self._stream = self._path.open("a", encoding="utf-8")
            self._stream.write("\n")
        for record in records:
            self._stream.write(json.dumps(record.to_json()) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the journal's file."""
        stream, self._stream = self._stream, None
        if stream is not None:
            # All that was journalled is on disk; what a full disk refused has been told already.
            with suppress(OSError):
                stream.close()

    def discard(self) -> None:
        """Throw the work away, once the store is complete."""
        self.close()
        shutil.rmtree(self._root, ignore_errors=True)
