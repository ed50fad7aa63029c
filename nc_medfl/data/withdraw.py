"""Taking patients, or single images, out of a store for good.

The new state of the store, without them, is made beside the old one and swapped in (see
:mod:`nc_medfl.data.generation`): a kill at any moment leaves one of the two, and the same command again ends in the
new one. Shards that hold none of them are kept as they are; the others are written anew, so that their bytes are gone
from every file of the store.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nc_medfl.data import store as stores
from nc_medfl.data.dicom.identifier import clean_identifier
from nc_medfl.data.export import EXPORT, keep_samples
from nc_medfl.data.generation import begin_generation, finish_swap, swap_generation
from nc_medfl.data.index import INDEX, read_index, write_index
from nc_medfl.data.lock import store_lock
from nc_medfl.data.manifest import keyed_hash
from nc_medfl.data.private import FOLDER, PUBLIC_SALT, SALT, clear_temporaries, clear_work, load_salt, write_private
from nc_medfl.data.quality import refresh_quality
from nc_medfl.data.review import REVIEW
from nc_medfl.data.sourcelist import SOURCES, has_sources, patient_of, read_sources, sources_without
from nc_medfl.data.sources import get_source, has_source
from nc_medfl.data.store import Store, open_store
from nc_medfl.data.tombstones import TOMBSTONES, Tombstone, read_tombstones, tombstones_with
from nc_medfl.data.usage import RunUse, run_folders, runs_that_used
from nc_medfl.errors import UserError
from nc_medfl.labels.columns import whole_number

#: Lists of a preparation that may name patients and are made anew by the next one.
_PASSING = ("labels_without_image.csv", REVIEW)
#: Where files of an archive lie (see :mod:`nc_medfl.data.pacs.fetch`, which is slow to import).
_DOWNLOADS = "pacs"


@dataclass(frozen=True)
class Request:
    """Who and what is to be taken out.

    Attributes:
        patients: identifiers as the archive or the label table gives them, in the clear.
        samples: ids of single images.
    """

    patients: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Withdrawal:
    """What was taken out of one store, in numbers that identify nobody.

    Attributes:
        store: its folder.
        images: images that were in it.
        files: further files of theirs that had been rejected, now gone from the lists.
        untold: rejected files whose patient can't be told any more (no header, or the file is gone).
        earlier: how many of those asked for had been taken out before.
        runs: runs that used the store while they were in it.
        exports: files that were removed from exports.
    """

    store: Path
    images: int
    files: int
    untold: int
    earlier: int
    runs: tuple[RunUse, ...]
    exports: int


@dataclass(frozen=True)
class _Found:
    """What a store has of the request.

    Attributes:
        store: it, open.
        out: which manifest rows go.
        patients: keys asked for.
        digests: SHA-256 of all files that go, rejected ones included.
        rejected: of the rejected ones, how many of each (SHA-256, outcome): files of others may have the same bytes,
            or none.
        seen: keys that occur here.
        untold, earlier: as in :class:`Withdrawal`.
    """

    store: Store
    out: npt.NDArray[np.bool_]
    patients: frozenset[str]
    digests: frozenset[str]
    rejected: Counter[tuple[str, str]]
    seen: frozenset[str]
    untold: int
    earlier: int

    @property
    def anything(self) -> bool:
        """Whether there is something to take out."""
        return bool(self.out.any()) or bool(self.digests)


def withdraw(
    folders: Sequence[Path],
    request: Request,
    *,
    salt_file: Path | None = None,
    runs: Iterable[Path] = (),
    dry_run: bool = False,
    today: str | None = None,
) -> list[Withdrawal]:
    """Take patients or images out of stores: pixels, rows, lists, exports, work in progress. A tombstone stays.

    Args:
        folders: the stores; a partition's sites are stores of their own.
        request: who and what.
        salt_file: the secret that the stores were keyed with, if it isn't in the first one that has one.
        runs: folders with run folders in them, to name those that used the images.
        dry_run: only say what would be taken out.
        today: date of the tombstone, ``YYYY-MM-DD``.

    Returns:
        One entry a store.

    Raises:
        UserError: if a folder is no store or in use, the salt isn't theirs, or somebody is unknown to all of
            them; nothing has been touched then.
    """
    day = today or datetime.now(timezone.utc).date().isoformat()
    paths = [path for root in runs for path in [_existing(root)]]
    try:
        with ExitStack() as held:
            opened = [_open(folder, held) for folder in folders]
            salt = _salt(opened, salt_file) if request.patients else b""
            keys = _keys(opened, request.patients, salt)
            found = [_find(store, keys, request, salt) for store in opened]
            _check_known(found, keys, request)
            about = run_folders(paths)
            return [_take_out(one, about, day, dry_run=dry_run) for one in found]
    except OSError as error:
        # Not the error's own text, which names a file.
        raise UserError(
            f"{folders[0]}: could not be changed ({error.strerror or type(error).__name__}). "
            "Mend that and give the same command again; it goes on where it stopped."
        ) from error


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give --runs the folder with the runs.")
    return folder


def _open(folder: Path, held: ExitStack) -> Store:
    if not (folder / FOLDER).is_dir():
        open_store(folder)
    held.enter_context(store_lock(folder))
    clear_temporaries(folder)
    finish_swap(folder)
    return open_store(folder)


def _salt(opened: Sequence[Store], salt_file: Path | None) -> bytes:
    own = next((path for s in opened if (path := s.folder / FOLDER / SALT).is_file()), None)
    public = all(_is_public(str((s.info.get("settings") or {}).get("source"))) for s in opened)
    if salt_file is None and own is None and not public:
        raise UserError(
            f"{opened[0].folder}: has no salt of its own, so keys can't be told. Give the one that it was prepared "
            "with as --salt-file (of a partition: the pool's site_private/salt.bin)."
        )
    chosen = salt_file or own
    salt = PUBLIC_SALT if chosen is None else load_salt(opened[0].folder, chosen, public=False)
    for store in opened:
        _check_salt(store, salt)
    return salt


def _keys(opened: Sequence[Store], patients: Sequence[str], salt: bytes) -> list[str]:
    """Keys of patients. ``1207.0``, as a table may have written it, is ``1207`` to a preparation, too."""
    present = {str(key) for store in opened for key in store.manifest["patient_key"]}
    keys = []
    for identifier in map(clean_identifier, patients):
        key = keyed_hash(salt, "patient", identifier)
        whole = keyed_hash(salt, "patient", whole_number(identifier))
        keys.append(whole if whole in present and key not in present else key)
    return keys


def _is_public(source: str) -> bool:
    return has_source(source) and get_source(source).public


def _check_salt(store: Store, salt: bytes) -> None:
    """A sample is the keyed hash of its file's hash: so a wrong salt is told from an unknown patient."""
    known = store.manifest.loc[store.manifest["source_sha256"].notna(), ["sample_id", "source_sha256"]]
    if len(known) and keyed_hash(salt, "sample", str(known.iloc[0, 1])) != known.iloc[0, 0]:
        raise UserError(
            f"{store.folder}: was keyed with another salt. Give the one that it was prepared with as --salt-file."
        )


def _find(store: Store, keys: Sequence[str], request: Request, salt: bytes) -> _Found:
    frame = store.manifest
    out = (frame["patient_key"].isin(keys) | frame["sample_id"].isin(request.samples)).to_numpy(dtype=bool)
    digests = set(frame.loc[out, "source_sha256"].dropna())
    seen = set(frame["patient_key"]) & set(keys)
    untold, rejected = 0, Counter[tuple[str, str]]()
    for source in read_sources(store.folder) if has_sources(store.folder) else ():
        if source.sample_id:
            continue
        key = patient_of(source, salt) if keys else ""
        untold += key is None
        if key in keys or (not key and source.source_sha256 in digests):
            rejected[source.source_sha256, source.outcome] += 1
        if key in keys:
            seen.add(str(key))
    digests.update(digest for digest, _ in rejected)
    stones = {(stone.kind, stone.key) for stone in read_tombstones(store.folder)}
    earlier = sum(("patient", key) in stones for key in keys) + sum(("sample", s) in stones for s in request.samples)
    return _Found(store, out, frozenset(keys), frozenset(digests), rejected, frozenset(seen), untold, earlier)


def _check_known(found: Sequence[_Found], keys: Sequence[str], request: Request) -> None:
    """Every one asked for is in some store, or was."""
    stones = {(s.kind, s.key) for one in found for s in read_tombstones(one.store.folder)}
    where = ", ".join(str(one.store.folder) for one in found)
    seen = {key for one in found for key in one.seen}
    for number, key in enumerate(keys, 1):
        if key not in seen and ("patient", key) not in stones:
            which = "this patient" if len(keys) == 1 else f"patient {number} of {len(keys)}"
            raise UserError(
                f"{where}: {which} is not in it. Give the identifier as the archive or the label table writes it; "
                "nothing was changed."
            )
    present = {str(sample) for one in found for sample in one.store.manifest["sample_id"]}
    for sample in request.samples:
        if sample not in present and ("sample", sample) not in stones:
            raise UserError(
                f"{where}: no sample {sample[:64]}. Copy the list from the page again; nothing was changed."
            )


def _take_out(found: _Found, about: Sequence[tuple[Path, Mapping[str, Any]]], day: str, *, dry_run: bool) -> Withdrawal:
    store = found.store
    patients = found.patients or frozenset(store.manifest.loc[found.out, "patient_key"])
    used = runs_that_used(store.folder, patients, str(store.info["settings_hash"]), about)
    exports = 0
    if not dry_run:
        if found.anything:
            _write_next_state(found, day)
        if found.anything or found.earlier:
            exports = _clean(store.folder)
    images = int(found.out.sum())
    rejected = found.rejected.total()
    runs = tuple(used) if found.anything or found.earlier else ()
    return Withdrawal(store.folder, images, rejected, found.untold, found.earlier, runs, exports)


def _write_next_state(found: _Found, day: str) -> None:
    """Everything that changes, made beside the store and swapped in."""
    store, folder = found.store, found.store.folder
    fresh = begin_generation(folder)
    frame = _write_shards(found, fresh)
    digest = stores.write_manifest(fresh, [frame], store.vocabulary)
    gone = _write_quarantine(folder, fresh, found.rejected)
    stores.write_json(fresh / stores.INFO, _info(store.info, int(found.out.sum()), gone))
    private = fresh / FOLDER
    write_private(private / TOMBSTONES, tombstones_with(folder, _stones(found, day)))
    if has_sources(folder):
        write_private(private / SOURCES, sources_without(folder, found.digests, found.patients))
    index = read_index(folder)
    if index is None:
        (folder / FOLDER / INDEX).unlink(missing_ok=True)
    else:
        head = replace(index.head, manifest=digest)
        write_index(private, head, (r for _, r in index.each() if r.source_sha256 not in found.digests))
    swap_generation(folder)


def _write_shards(found: _Found, fresh: Path) -> Any:
    """The shards of the new state, and its manifest rows. A shard that loses nothing is the same file."""
    store = found.store
    frame = store.manifest.loc[~found.out].reset_index(drop=True).copy()
    (fresh / stores.SHARDS).mkdir()
    kept = np.flatnonzero(~found.out)
    shards = store.manifest["shard"].to_numpy()
    changed = set(shards[found.out].tolist())
    rows = frame["row"].to_numpy().copy()
    for number in np.unique(shards).tolist():
        here = shards[kept] == number
        if number not in changed:
            _link(stores.shard_path(store.folder, number), stores.shard_path(fresh, number))
        elif here.any():
            order = np.argsort(rows[here], kind="stable")
            stores.write_shard(fresh, number, store.images(kept[here][order]))
            places = np.empty(len(order), dtype=rows.dtype)
            places[order] = np.arange(len(order))
            rows[here] = places
    frame["row"] = rows
    return frame


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _write_quarantine(folder: Path, fresh: Path, rejected: Counter[tuple[str, str]]) -> Counter[str]:
    """The list without some files; how many of which outcome went."""
    path = folder / stores.QUARANTINE
    gone: Counter[str] = Counter()
    if not path.is_file():
        return gone
    kept, left = [], Counter(rejected)
    for line in path.read_text(encoding="utf-8").splitlines():
        digest, outcome, *_ = [*line.split(",", 2), ""]
        if left[digest, outcome]:
            left[digest, outcome] -= 1
            gone[outcome] += 1
        else:
            kept.append(line)
    stores.write_atomic(fresh / stores.QUARANTINE, ("\n".join(kept) + "\n").encode())
    return gone


def _info(info: Mapping[str, Any], images: int, gone: Counter[str]) -> dict[str, Any]:
    counts = Counter({str(outcome): int(count) for outcome, count in dict(info.get("counts") or {}).items()})
    counts.subtract({"ok": images, **gone})
    counts["withdrawn"] += images + gone.total()
    return {**info, "counts": {outcome: count for outcome, count in counts.items() if count > 0}}


def _stones(found: _Found, day: str) -> list[Tombstone]:
    frame = found.store.manifest
    images = Counter(frame["patient_key"])
    stones = [Tombstone("patient", key, day, images[key]) for key in sorted(found.patients) if found.anything]
    alone = frame.loc[found.out & ~frame["patient_key"].isin(found.patients).to_numpy(dtype=bool), "sample_id"]
    return stones + [Tombstone("sample", str(sample), day, 1) for sample in sorted(alone)]


def _clean(folder: Path) -> int:
    """Take what isn't in the store any more out of everything that was made of it. Needs no memory of what went."""
    store = open_store(folder)
    for name in _PASSING:
        (folder / FOLDER / name).unlink(missing_ok=True)
    clear_work(folder)
    _clean_downloads(folder)
    removed = keep_samples(folder, frozenset(store.manifest["sample_id"])) if (folder / EXPORT).is_dir() else 0
    refresh_quality(store)
    return removed


def _clean_downloads(folder: Path) -> None:
    """Remove what an archive gave and the list of sources doesn't have any more, and the lists of UIDs beside it."""
    downloads = folder / FOLDER / _DOWNLOADS
    listed = {source.path.name for source in read_sources(folder)} if has_sources(folder) else set()
    for path in (*downloads.glob("*.jsonl"), *downloads.glob("*.csv"), *(downloads / "images").glob("*")):
        if path.parent == downloads or path.name not in listed:
            path.unlink(missing_ok=True)
