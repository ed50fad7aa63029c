"""Whether a store that stands was made of and with the same: a changed setting never mixes with an old store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nc_medfl.data.index import Index, IndexHead
from nc_medfl.data.manifest import SCHEMA_VERSION, keyed_hash
from nc_medfl.data.private import FOLDER
from nc_medfl.data.records import RecordBook
from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.sources import SourceData
from nc_medfl.data.store import MANIFEST, Store, hash_of_file, read_columns
from nc_medfl.data.tombstones import TOMBSTONES
from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary

#: Settings that are no option of their own name.
_SPOKEN = {"reader": "the reader's version", "vocabulary": "--vocabulary"}


def fingerprint(content: Any) -> str:
    """SHA-256 of numbers, texts, arrays, and lists, mappings and dataclasses of them; of anything else, nothing."""
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: Any, content: Any) -> None:
    if isinstance(content, np.ndarray):
        digest.update(f"a{content.dtype}{content.shape}".encode())
        digest.update(np.ascontiguousarray(content).tobytes())
    elif isinstance(content, Mapping):
        digest.update(f"m{len(content)}".encode())
        for key in sorted(content, key=str):
            _feed(digest, key)
            _feed(digest, content[key])
    elif isinstance(content, (list, tuple, range)):
        digest.update(f"l{len(content)}".encode())
        for item in content:
            _feed(digest, item)
    elif is_dataclass(content):
        _feed(digest, {f.name: getattr(content, f.name) for f in fields(content)})
    elif content is None or isinstance(content, (str, int, float, Path)):
        text = f"{type(content).__name__ if not isinstance(content, Path) else 'path'}:{content}"
        digest.update(f"{len(text)}{text}".encode("utf-8", "surrogatepass"))


def head_of(
    settings: PrepareSettings,
    source: SourceData,
    vocabulary: Vocabulary,
    *,
    salt: bytes,
    reading: str,
    record: Mapping[str, Any],
) -> IndexHead:
    """What a store is made of, but its files; ``manifest`` is left empty.

    Args:
        settings, source, vocabulary, salt: what is prepared, and how.
        reading: hash of what decides the pixels.
        record: the settings as ``prepare.json`` holds them.
    """
    about = {f.name: getattr(source, f.name) for f in fields(source) if f.name not in ("files", "labels", "table")}
    labels = fingerprint({"labels": source.labels, **about})
    label_map = source.label_map_hash
    stones = hash_of_file(settings.out / FOLDER / TOMBSTONES)
    inputs = fingerprint(
        {
            "schema": SCHEMA_VERSION,
            "reading": reading,
            "vocabulary": vocabulary.fingerprint,
            "labels": labels,
            "label_map": label_map,
            "salt": salt.hex(),
            "images": str(settings.images.resolve()),
            "withdrawn": stones,
            **{f"setting {key}": value for key, value in record.items() if key != "versions"},
        }
    )
    return IndexHead(reading, inputs, labels, label_map, keyed_hash(salt, "salt", ""), "")


def refuse_changes(
    standing: Store, index: Index | None, head: IndexHead, record: Mapping[str, Any], vocabulary: Vocabulary
) -> None:
    """Refuse to prepare with other settings what stands already.

    Args:
        standing: the store that stands.
        index: its index.
        head: of the run that is asked for.
        record: its settings, as ``prepare.json`` would hold them.
        vocabulary: its findings.

    Raises:
        UserError: naming the first setting that differs, its old and new value, and the remedy.
    """
    remedy = "Give --replace to make the store anew, or another --out."
    if index is None:
        raise UserError(
            f"{standing.folder}: is a store, but not one that this version of 'nc-medfl prepare' made here. {remedy}"
        )
    old = {**_comparable(standing.info.get("settings") or {}), "vocabulary": standing.vocabulary.name}
    new = {**_comparable(record), "vocabulary": vocabulary.name}
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            spoken = _SPOKEN.get(name, f"--{name.replace('_', '-')}")
            raise UserError(
                f"{standing.folder}: was prepared with {spoken} {_said(old[name])}, this run has {_said(new[name])}. "
                f"{remedy}"
            )
    hidden = (
        (standing.vocabulary.fingerprint, vocabulary.fingerprint, "other findings in its vocabulary"),
        (index.head.label_map, head.label_map, "another content of the label map (--label-map)"),
        (index.head.salt, head.salt, "another salt (--salt-file), so its keys would change"),
        (index.head.reading, head.reading, "another reader"),
    )
    for before, now, what in hidden:
        if before != now:
            raise UserError(f"{standing.folder}: was prepared with {what}. {remedy}")


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: json.loads(json.dumps(value)) for key, value in record.items() if key != "versions"}


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value in (None, "") else str(value)


def refuse_losses(settings: PrepareSettings, standing: Store, index: Index, records: RecordBook) -> None:
    """Refuse to drop images because their files are gone or forbidden: a share may be there by half.

    Args:
        settings: of this run.
        standing: the store that stands.
        index: its index.
        records: of all files that there are now.

    Raises:
        UserError: with their number and the remedy.
    """
    lost = {record.name for record in records if record.outcome == "unreadable"}
    gone = {
        r.source_sha256
        for _, r in index.each()
        if r.outcome == "ok" and (records.position(r.name) is None or r.name in lost)
    }
    if gone:
        in_store = read_columns(standing.folder, ["source_sha256"]).column(0)
        gone &= set(in_store.to_pylist())
        gone.difference_update(record.source_sha256 for record in records)
    if gone:
        raise UserError(
            f"{settings.images}: {len(gone)} of the {len(standing)} images in the store come from files that are gone "
            "or can't be read. Bring them back (is the share mounted whole?), or give --replace to make the store "
            "without them."
        )


def is_unchanged(standing: Store, index: Index, head: IndexHead, records: RecordBook) -> bool:
    """Whether a run would give the store that stands: the same settings, labels and files, and nothing damaged.

    Args:
        standing: the store that stands.
        index: its index.
        head: of the run that is asked for.
        records: of the files that there are now, where they need not be read again.
    """
    return (
        index.head.inputs == head.inputs
        # A file that has changed since may have been read again already: its record is in the journal then.
        and len(records) == records.known(index.path) == sum(1 for _ in index.each())
        and index.head.manifest == hash_of_file(standing.folder / MANIFEST)
        and shards_are_whole(standing)
    )


def shards_are_whole(standing: Store) -> bool:
    """Whether every shard that the manifest points to is there with all its rows."""
    places = standing.manifest.groupby("shard")["row"].max()
    try:
        return all(
            len(shard := standing.shard(int(str(number)))) > int(last)
            and shard.shape[1:] == (standing.size, standing.size)
            for number, last in places.items()
        )
    except UserError:
        return False
