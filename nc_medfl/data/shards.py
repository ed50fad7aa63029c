"""The pixels of the kept images, gathered into the shards of a new state of the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nc_medfl.data import store as stores
from nc_medfl.data.store import Store
from nc_medfl.data.worker import Record

#: Bytes of one shard: few files to map, and little memory to work on one.
_SHARD_BYTES = 2**27
#: Images that are copied at once.
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Kept:
    """The images that go into the store, in the order of their keyed names.

    Attributes:
        positions: of their files, ``[N]``.
        labels: positions in the label table, ``[N]``.
        samples: keyed names, 32 hexadecimal bytes each, ``[N]``.
    """

    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    samples: npt.NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.positions)


def rows_per_shard(size: int) -> int:
    """Images of one shard."""
    return max(1, _SHARD_BYTES // size**2)


class Places:
    """Where in a store the pixels of a file are, by the hash of the file.

    Args:
        standing: the store; None: nowhere.
    """

    def __init__(self, standing: Store | None) -> None:
        table = None if standing is None else stores.read_columns(standing.folder, ["source_sha256"])
        texts = [] if table is None else table.column(0).to_pylist()
        digests = np.array([(text or "").encode() for text in texts], dtype="S64")
        self._order = np.argsort(digests, kind="stable")
        self._digests = digests[self._order]

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, str) and self.of([digest])[0] >= 0

    def of(self, digests: Sequence[str]) -> npt.NDArray[np.int64]:
        """Positions in the store of some files, -1 where it doesn't have them."""
        wanted = np.array([digest.encode() for digest in digests], dtype="S64")
        if not len(self._digests):
            return np.full(len(wanted), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._digests, wanted), len(self._digests) - 1)
        return np.where(self._digests[at] == wanted, self._order[at], -1).astype(np.int64)


def lacking_pixels(kept: Kept, records: Sequence[Record], places: Places) -> list[int]:
    """Positions of the kept images' files whose pixels are in no chunk and not in the store."""
    lacking = []
    for position in kept.positions.tolist():
        record = records[position]
        if not record.chunk and record.source_sha256 not in places:
            lacking.append(position)
    return sorted(lacking)


def write_shards(
    folder: Path,
    kept: Kept,
    records: Sequence[Record],
    chunks: Path,
    size: int,
    standing: Store | None = None,
    places: Places | None = None,
) -> bool:
    """Gather the kept images' pixels into shards, in order.

    Args:
        folder: the new state of the store.
        kept: its images.
        records: of all files.
        chunks: the folder with the chunks that the workers left.
        size: side of the stored square.
        standing: a store whose pixels may be used.
        places: where in it they are; for images without a chunk.

    Returns:
        Whether there was anything to write: the shards of the standing store are left alone if they hold just this.
    """
    places = places or Places(standing)
    if standing is not None and _same_shards(kept, records, standing, places, size):
        return False
    a_shard = rows_per_shard(size)
    for number, start in enumerate(range(0, len(kept), a_shard)):
        part = kept.positions[start : start + a_shard].tolist()
        stores.write_shard_rows(
            folder, number, (len(part), size, size), _pixels(part, records, chunks, standing, places)
        )
    return True


def _pixels(
    part: Sequence[int], records: Sequence[Record], chunks: Path, standing: Store | None, places: Places
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
    """The pixels of some files: which of them, and their squares; a chunk at a time."""
    rows_of: dict[str, list[tuple[int, int]]] = {}
    for at, position in enumerate(part):
        record = records[position]
        row = record.row if record.chunk else int(places.of([record.source_sha256])[0])
        rows_of.setdefault(record.chunk, []).append((at, row))
    for name, pairs in sorted(rows_of.items()):
        if name:
            here, rows = np.array(pairs, dtype=np.int64).T
            yield here, np.load(chunks / name, mmap_mode="r", allow_pickle=False)[rows]
            continue
        for begin in range(0, len(pairs) if standing is not None else 0, _ROWS_AT_ONCE):
            here, rows = np.array(pairs[begin : begin + _ROWS_AT_ONCE], dtype=np.int64).T
            if standing is not None:
                yield here, standing.images(rows)


def _same_shards(kept: Kept, records: Sequence[Record], standing: Store, places: Places, size: int) -> bool:
    if len(kept) != len(standing):
        return False
    positions = np.empty(len(kept), dtype=np.int64)
    for at, position in enumerate(kept.positions.tolist()):
        record = records[position]
        if record.chunk:
            return False
        positions[at] = places.of([record.source_sha256])[0]
    a_shard = rows_per_shard(size)
    expected = np.arange(len(kept))
    shards, rows = (standing.manifest[name].to_numpy()[positions] for name in ("shard", "row"))
    numbers = range(int(expected[-1]) // a_shard + 1)
    lengths = sum(len(standing.shard(number)) for number in numbers)
    return bool((shards == expected // a_shard).all() and (rows == expected % a_shard).all() and lengths == len(kept))
