"""A store: the images of one site as uint8 shards, and the manifest that addresses them.

On disk: ``shards/00000.npy`` (uint8 ``[N, size, size]``), ``manifest.parquet``, ``prepare.json`` (settings,
vocabulary, versions, counts), ``quarantine.csv``. Images are read by memory map.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nc_medfl.data import manifest as manifests
from nc_medfl.data.arrays import write_array, write_header
from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary

MANIFEST = "manifest.parquet"
INFO = "prepare.json"
QUARANTINE = "quarantine.csv"
SHARDS = "shards"
#: Manifest rows that are written at once: for what memory they take.
ROW_GROUP = 2**15
#: Bytes of a shard that are looked at before it is mapped anew: pages that were touched count as memory.
_MAPPED = 2**23


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all (temporary file, fsync, rename)."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def hash_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def shard_path(folder: Path, number: int) -> Path:
    """Where shard ``number`` of the store in ``folder`` lies."""
    return folder / SHARDS / f"{number:05d}.npy"


def write_shard(folder: Path, number: int, images: npt.NDArray[np.uint8]) -> Path:
    """Write one shard, whole or not at all. ``images`` is uint8 ``[N, size, size]``."""
    path = shard_path(folder, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        write_array(stream, images)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    return path


def write_shard_rows(
    folder: Path,
    number: int,
    shape: tuple[int, int, int],
    parts: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]],
) -> Path:
    """As :func:`write_shard`, with the images coming in parts and in any order; no more than a part is in memory.

    Args:
        folder: the store.
        number: of the shard.
        shape: of the whole shard, ``[N, size, size]``.
        parts: rows of the shard, and their images; every row once.
    """
    path = shard_path(folder, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    a_row = shape[1] * shape[2]
    with temporary.open("wb") as stream:
        write_header(stream, shape)
        start = stream.tell()
        stream.truncate(start + shape[0] * a_row)
        for rows, images in parts:
            for row, image in zip(rows.tolist(), images, strict=True):
                stream.seek(start + row * a_row)
                stream.write(np.ascontiguousarray(image).data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    return path


@dataclass
class Store:
    """A prepared site, open for reading.

    Attributes:
        folder: where it lies.
        manifest: one row an image (see :mod:`nc_medfl.data.manifest`).
        vocabulary: the findings it is labelled for.
        info: what ``prepare.json`` says.
    """

    folder: Path
    manifest: pd.DataFrame
    vocabulary: Vocabulary
    info: dict[str, Any]
    _shards: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def size(self) -> int:
        """Side of the stored square images, in pixels."""
        return int(self.info["size"])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the stored images, in pixels: squares, but for made-up pictures of a bench."""
        height, width = self.info.get("shape", (self.size, self.size))
        return int(height), int(width)

    @property
    def channels(self) -> int:
        """Channels of the stored images: 1, but for colour pictures of a bench, which have 3."""
        return int(self.info.get("channels", 1))

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Image of manifest row ``index`` (position), uint8 ``[size, size]``, a view into the map."""
        shard, row = (int(self.manifest[name].to_numpy()[index]) for name in ("shard", "row"))
        picture: npt.NDArray[np.uint8] = self.shard(shard)[row]
        return picture

    def each_image(self) -> Iterator[npt.NDArray[np.uint8]]:
        """All images in the manifest's order, uint8 ``[size, size]``; what is behind doesn't stay mapped."""
        places = zip(self.manifest["shard"].to_numpy(), self.manifest["row"].to_numpy(), strict=True)
        last, mapped = -1, 0
        for number, row in places:
            if number != last or mapped > _MAPPED:
                self._shards.pop(last, None)
                last, mapped = int(number), 0
            picture = self.shard(last)[int(row)]
            mapped += picture.nbytes
            yield picture

    def images(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Images of some manifest rows (positions), in that order, uint8 ``[len, size, size]``.

        Where the store is of colour pictures, ``[len, 3, H, W]``.
        """
        positions = np.asarray(indices, dtype=np.int64)
        shards = self.manifest["shard"].to_numpy()[positions]
        rows = self.manifest["row"].to_numpy()[positions]
        planes = (self.channels,) if self.channels > 1 else ()
        out = np.empty((len(positions), *planes, *self.shape), dtype=np.uint8)
        for number in np.unique(shards):
            here = shards == number
            out[here] = self.shard(int(number))[rows[here]]
        return out

    def labels(self) -> npt.NDArray[np.float32]:
        """All labels, float32 ``[N, C]``, NaN for unknown."""
        return manifests.label_matrix(self.manifest, self.vocabulary.findings)

    def positions(self, split: str) -> npt.NDArray[np.int64]:
        """Positions of the manifest rows of one split (``train``, ``val`` or ``test``)."""
        return np.flatnonzero((self.manifest["split"] == split).to_numpy(dtype=bool))

    def shard(self, number: int) -> npt.NDArray[np.uint8]:
        """Images of one shard, uint8 ``[N, size, size]``, a memory map.

        Raises:
            UserError: if it is missing or damaged.
        """
        if number not in self._shards:
            path = shard_path(self.folder, number)
            try:
                self._shards[number] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise UserError(f"{self.folder}: shard {path.name} is missing or damaged. Prepare again.") from error
        return self._shards[number]


def write_store(
    folder: Path,
    frame: pd.DataFrame,
    vocabulary: Vocabulary,
    *,
    size: int,
    settings: Mapping[str, Any],
    counts: Mapping[str, int],
    settings_hash: str,
    labels: Mapping[str, Any] | None = None,
) -> Store:
    """Write manifest and ``prepare.json`` as :func:`describe_store` does, and open the store."""
    describe_store(
        folder,
        frame,
        vocabulary,
        size=size,
        settings=settings,
        counts=counts,
        settings_hash=settings_hash,
        labels=labels,
    )
    return open_store(folder)


def describe_store(
    folder: Path,
    frame: pd.DataFrame | Iterable[pd.DataFrame],
    vocabulary: Vocabulary,
    *,
    size: int,
    settings: Mapping[str, Any],
    counts: Mapping[str, int],
    settings_hash: str,
    labels: Mapping[str, Any] | None = None,
    shape: Mapping[str, Any] | None = None,
) -> None:
    """Write manifest and ``prepare.json`` beside shards that are already there.

    Args:
        folder: the store; its shards have been written by :func:`write_shard`.
        frame: manifest rows, at once or in parts; columns are put in order and typed.
        vocabulary: the findings of its label columns.
        size: side of the stored images, pixels.
        settings: what they were prepared with, as JSON values, without paths.
        counts: images by outcome.
        settings_hash: hash of the settings that decide pixels and labels.
        labels: what was made of the label table, in counts.
        shape: ``shape`` and ``channels`` of pictures that are not square or in colour.
    """
    from nc_medfl import __version__

    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / INFO,
        {
            "schema_version": manifests.SCHEMA_VERSION,
            "package_version": __version__,
            "vocabulary": {"name": vocabulary.name, "findings": list(vocabulary.findings)},
            "vocabulary_fingerprint": vocabulary.fingerprint,
            "size": size,
            "settings": dict(settings),
            "settings_hash": settings_hash,
            "counts": dict(counts),
            **({} if labels is None else {"labels": dict(labels)}),
            **(shape or {}),
        },
    )
    write_manifest(folder, [frame] if isinstance(frame, pd.DataFrame) else frame, vocabulary)


def write_manifest(folder: Path, parts: Iterable[pd.DataFrame], vocabulary: Vocabulary) -> str:
    """Write ``manifest.parquet``, whole or not at all, and return its SHA-256. The same rows give the same bytes.

    Args:
        folder: the store.
        parts: manifest rows, as they come; columns are put in order and typed. A row group is in memory at a time.
        vocabulary: the findings of the label columns.
    """
    path = folder / MANIFEST
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        _write_groups(stream, _row_groups(parts, vocabulary))
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    return hash_of_file(path)


def _write_groups(stream: BinaryIO, groups: Iterable[pa.Table]) -> None:
    writer: pq.ParquetWriter | None = None
    for table in groups:
        if writer is None:
            writer = pq.ParquetWriter(stream, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=max(1, len(table)))
        del table
    if writer is not None:
        writer.close()


def _row_groups(parts: Iterable[pd.DataFrame], vocabulary: Vocabulary) -> Iterator[pa.Table]:
    """Parts gathered into tables of :data:`ROW_GROUP` rows, the last of what is left."""
    waiting: list[pa.Table] = []
    for frame in parts:
        normal = manifests.normalise(frame, vocabulary.findings)
        waiting.append(pa.Table.from_pandas(normal, preserve_index=False))
        while (rows := sum(map(len, waiting))) > ROW_GROUP:
            over = rows - ROW_GROUP
            last = waiting.pop()
            rest = last.slice(len(last) - over)
            waiting.append(last.slice(0, len(last) - over))
            yield _in_one_piece(waiting)
            waiting = [rest]
    yield _in_one_piece(waiting)


def _in_one_piece(tables: list[pa.Table]) -> pa.Table:
    """Tables as one, since their pieces would show in the file's bytes; they are let go column by column."""
    schema = tables[0].schema
    columns = [[chunk for table in tables for chunk in table.column(at).chunks] for at in range(len(schema))]
    tables.clear()
    columns.reverse()
    return pa.Table.from_arrays([pa.concat_arrays(columns.pop()) for _ in range(len(schema))], schema=schema)


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes; empty where there is none."""
    if not path.is_file():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_columns(folder: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a store's manifest, in the store's order; the others aren't read."""
    return pq.read_table(folder / MANIFEST, columns=list(columns)).select(list(columns))


def _read_frame(path: Path, wanted: Callable[[str], bool] | None) -> pd.DataFrame:
    """A manifest's columns, read one after the other: all at once take three times the memory that they are kept in."""
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if wanted is None or wanted(name)]
        columns = {name: file.read(columns=[name], use_threads=False).to_pandas()[name] for name in names}
    frame: pd.DataFrame = pd.DataFrame(columns, copy=False)
    return frame


def open_store(folder: str | Path, wanted: Callable[[str], bool] | None = None) -> Store:
    """Open a store for reading.

    Args:
        folder: where it lies.
        wanted: which columns of the manifest to read; all if None.

    Raises:
        UserError: if the folder is missing, is no store, or was written by a newer package.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give the --out of 'nc-medfl prepare'.")
    absent = [name for name in (MANIFEST, INFO) if not (folder / name).is_file()]
    if absent:
        raise UserError(f"{folder}: no {absent[0]}, so not a store (or half-prepared). Run 'nc-medfl prepare' again.")
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        frame = _read_frame(folder / MANIFEST, wanted)
        version = int(info["schema_version"])
        vocabulary = Vocabulary(info["vocabulary"]["name"], tuple(info["vocabulary"]["findings"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: {MANIFEST} or {INFO} is damaged. Run 'nc-medfl prepare' again.") from error
    if version > manifests.SCHEMA_VERSION:
        raise UserError(
            f"{folder}: written with schema {version}, this package reads up to {manifests.SCHEMA_VERSION}. "
            "Upgrade nc_medfl."
        )
    return Store(folder, manifests.normalise(frame, vocabulary.findings, wanted), vocabulary, info)


def copy_rows(source: Store, indices: Iterable[int], folder: Path, *, rows_per_shard: int = 4096) -> pd.DataFrame:
    """Copy some images of a store into fresh shards of another folder.

    Returns:
        Their manifest rows with ``shard`` and ``row`` of the new place, for :func:`write_store`.
    """
    positions = np.asarray(list(indices), dtype=np.int64)
    frame: pd.DataFrame = source.manifest.iloc[positions].reset_index(drop=True).copy()
    for number, start in enumerate(range(0, len(positions), rows_per_shard)):
        write_shard(folder, number, source.images(positions[start : start + rows_per_shard]))
    frame["shard"] = np.arange(len(positions)) // rows_per_shard
    frame["row"] = np.arange(len(positions)) % rows_per_shard
    return frame
