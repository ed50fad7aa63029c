"""What a complete store remembers of every file, in ``site_private/index.jsonl``.

A file whose name, length and time of change (nanoseconds) are those of its record is not read again; an image's
pixels are then taken from the store itself. Work is only reused where the settings that decide pixels are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nc_medfl.data.private import FOLDER, open_private
from nc_medfl.data.records import FACTS, FIELDS, IDENTITY, line_of, records_in
from nc_medfl.data.worker import Record

INDEX = "index.jsonl"
_FORMAT = 1


@dataclass(frozen=True)
class IndexHead:
    """What the store was made of and with; texts that aren't settings are hashes.

    Attributes:
        reading: of what decides the pixels.
        inputs: of everything that decides the store's bytes.
        labels: of the label table's content.
        label_map: of the label map's file; empty where the map is the package's or inferred.
        salt: keyed fingerprint of the salt.
        manifest: of ``manifest.parquet``.
    """

    reading: str
    inputs: str
    labels: str
    label_map: str
    salt: str
    manifest: str


@dataclass(frozen=True)
class Index:
    """An index as it was found.

    Attributes:
        head: what the store was made of.
        path: where it lies.
        start: where in it the first record begins.
    """

    head: IndexHead
    path: Path
    start: int

    def each(self) -> Iterator[tuple[int, Record]]:
        """Where each record begins, and the record; one is in memory at a time."""
        return records_in(self.path, self.start)


def write_index(folder: Path, head: IndexHead, records: Iterable[Record]) -> None:
    """Write the index of a store.

    Args:
        folder: where ``index.jsonl`` goes; it must be new, since this is not written to a temporary name.
        head: what the store was made of.
        records: of all files as they were read (not as they were judged), in the order of their names.
    """
    columns = {"fields": FIELDS, "facts": FACTS, "identity": IDENTITY}
    with open_private(folder / INDEX) as stream:
        stream.write(_line({"format": _FORMAT, **asdict(head), **columns}))
        stream.writelines(line_of(replace(record, chunk="", row=-1)) for record in records)


def read_index(store: Path) -> Index | None:
    """The index of a store, or None where there is none that this version can use."""
    path = store / FOLDER / INDEX
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        line = stream.readline()
    try:
        first = json.loads(line)
        if [first.pop(key) for key in ("format", "fields", "facts", "identity")] != [_FORMAT, FIELDS, FACTS, IDENTITY]:
            return None
        head = IndexHead(**first)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return Index(head, path, len(line))


def _line(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
