"""Records of files, left on disk: a folder may hold a million, and each takes a kilobyte in memory.

They stand one a line in the journal of what was read and in the index of a complete store. In memory is only where
each begins.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, overload

from nc_medfl.data.inputs.files import SourceFile
from nc_medfl.data.radiograph import Facts, Identity
from nc_medfl.data.worker import Record

FIELDS = [f.name for f in fields(Record)]
FACTS = [f.name for f in fields(Facts)]
IDENTITY = [f.name for f in fields(Identity)]
_FACTS_AT, _IDENTITY_AT = FIELDS.index("facts"), FIELDS.index("identity")
#: Changes with what a line holds.
LAYOUT = hashlib.sha256(json.dumps([FIELDS, FACTS, IDENTITY]).encode()).hexdigest()[:8]


def line_of(record: Record) -> bytes:
    """A record as a line of JSON: values in the order of the fields, no names."""
    values: list[Any] = [getattr(record, name) for name in FIELDS]
    identity = [getattr(record.identity, name) for name in IDENTITY]
    values[_FACTS_AT] = None if record.facts is None else [getattr(record.facts, name) for name in FACTS]
    values[_IDENTITY_AT] = identity if any(identity) else None
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def record_of(line: bytes) -> Record:
    """The inverse of :func:`line_of`.

    Raises:
        ValueError, TypeError, LookupError: if it is no such line.
    """
    values = json.loads(line)
    facts, identity = values[_FACTS_AT], values[_IDENTITY_AT]
    values[_FACTS_AT] = None if facts is None else Facts(*facts)
    values[_IDENTITY_AT] = Identity() if identity is None else Identity(*identity)
    return Record(*values)


def records_in(path: Path, start: int = 0) -> Iterator[tuple[int, Record]]:
    """Where each record of a file begins, and the record. Lines cut short by a crash or damaged are left out.

    Args:
        path: one record a line.
        start: where the first begins.
    """
    with path.open("rb") as stream:
        begin = stream.seek(start)
        for line in stream:
            record = None
            # A damaged line costs reading that file again.
            with suppress(ValueError, TypeError, LookupError):
                record = record_of(line)
            if record is not None:
                yield begin, record
            begin += len(line)


class Records(Sequence[Record]):
    """Records of files in the files' order, each made when it is asked for."""

    @abstractmethod
    def at(self, index: int) -> Record:
        """One of them."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self.at(position) for position in range(*index.indices(len(self)))]
        return self.at(index)


class RecordBook(Records):
    """The records of the files of a source, in the files' order; read from disk when they are asked for.

    Args:
        files: of the source.
    """

    def __init__(self, files: Sequence[SourceFile]) -> None:
        self._files = files
        self._position = {file.name: position for position, file in enumerate(files)}
        self._begins = array("q", [-1]) * len(files)
        self._in = bytearray(len(files))
        self._paths: list[Path] = []
        self._streams: dict[int, BinaryIO] = {}

    def __len__(self) -> int:
        return len(self._begins)

    def at(self, index: int) -> Record:
        """The record of a file; it must be known."""
        number = self._in[index]
        stream = self._streams.get(number)
        if stream is None:
            stream = self._streams[number] = self._paths[number].open("rb")
        stream.seek(self._begins[index])
        return record_of(stream.readline())

    @property
    def files(self) -> Sequence[SourceFile]:
        """What the records are of."""
        return self._files

    def position(self, name: str) -> int | None:
        """Position of the file of that name, or None where there is none."""
        return self._position.get(name)

    def has(self, position: int) -> bool:
        """Whether the record of a file is known."""
        return self._begins[position] >= 0

    def known(self, path: Path | None = None) -> int:
        """How many are known; those in one file, where that is given."""
        if path is None:
            return sum(begin >= 0 for begin in self._begins)
        if path not in self._paths:
            return 0
        number = self._paths.index(path)
        return sum(begin >= 0 and at == number for begin, at in zip(self._begins, self._in, strict=True))

    def put(self, position: int, path: Path, begin: int) -> None:
        """Have the record of a file where it stands on disk; a former one is forgotten."""
        if path not in self._paths:
            self._paths.append(path)
        self._begins[position], self._in[position] = begin, self._paths.index(path)

    def close(self) -> None:
        """Close the files that records were read from; they are opened again if need be."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
