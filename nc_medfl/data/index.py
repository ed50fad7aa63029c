"""What a complete store remembers of every file, in ``site_private/index.jsonl``.

A file whose name, length and time of change (nanoseconds) are those of its record is not read again; an image's
pixels are then taken from the store itself. Work is only reused where the settings that decide pixels are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nc_medfl.data.private import FOLDER, open_private
from nc_medfl.data.radiograph import Facts, Identity
from nc_medfl.data.worker import Record

INDEX = "index.jsonl"
_FORMAT = 1
_FIELDS = [f.name for f in fields(Record)]
_FACTS = [f.name for f in fields(Facts)]
_IDENTITY = [f.name for f in fields(Identity)]


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
    """An index as it was read: its head, and the records by file name."""

    head: IndexHead
    records: Mapping[str, Record]


def write_index(folder: Path, head: IndexHead, records: Iterable[Record]) -> None:
    """Write the index of a store.

    Args:
        folder: where ``index.jsonl`` goes; it must be new, since this is not written to a temporary name.
        head: what the store was made of.
        records: of all files as they were read (not as they were judged), in the order of their names.
    """
    columns = {"fields": _FIELDS, "facts": _FACTS, "identity": _IDENTITY}
    with open_private(folder / INDEX) as stream:
        stream.write(_line({"format": _FORMAT, **asdict(head), **columns}))
        stream.writelines(_line(_packed(replace(record, chunk="", row=-1))) for record in records)


def read_index(store: Path) -> Index | None:
    """The index of a store, or None where there is none that this version can use."""
    path = store / FOLDER / INDEX
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as stream:
        try:
            first = json.loads(stream.readline())
            if [first.pop(key) for key in ("format", "fields", "facts", "identity")] != [
                *(_FORMAT, _FIELDS, _FACTS, _IDENTITY)
            ]:
                return None
            head = IndexHead(**first)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return Index(head, {record.name: record for record in _unpacked(stream)})


def _line(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _packed(record: Record) -> list[Any]:
    facts = None if record.facts is None else [getattr(record.facts, name) for name in _FACTS]
    identity = [getattr(record.identity, name) for name in _IDENTITY]
    nested = {"facts": facts, "identity": identity if any(identity) else None}
    return [nested[name] if name in nested else getattr(record, name) for name in _FIELDS]


def _unpacked(lines: Iterable[str]) -> Iterator[Record]:
    facts_at, identity_at = _FIELDS.index("facts"), _FIELDS.index("identity")
    for line in lines:
        try:
            values = json.loads(line)
            facts, identity = values[facts_at], values[identity_at]
            values[facts_at] = None if facts is None else Facts(*facts)
            values[identity_at] = Identity() if identity is None else Identity(*identity)
            yield Record(*values).slim()
        except (ValueError, TypeError, KeyError, IndexError):
            # A damaged line costs reading that file again.
            continue
