"""From a folder of radiographs and a label table to a store, resumable and without identifiers.

The parts: :mod:`nc_medfl.data.reading` reads files, :mod:`nc_medfl.data.finish` judges them and makes the store,
:mod:`nc_medfl.data.changes` keeps a changed setting from mixing with what stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq

from nc_medfl.data import store as stores
from nc_medfl.data.changes import head_of, is_unchanged, refuse_changes, refuse_losses, shards_are_whole
from nc_medfl.data.engine import Engine, ProcessEngine
from nc_medfl.data.finish import (
    PrepareSummary,
    Task,
    finish,
    for_the_record,
    join_of,
    no_match,
    pixel_settings,
    summarise,
)
from nc_medfl.data.generation import finish_swap
from nc_medfl.data.index import Index, read_index
from nc_medfl.data.join import identifier_in, is_uid, join_labels, joined_source
from nc_medfl.data.journal import Journal
from nc_medfl.data.lock import store_lock
from nc_medfl.data.manifest import SCHEMA_VERSION
from nc_medfl.data.memory import give_back, plain_tables
from nc_medfl.data.private import FOLDER, clear_temporaries, clear_work, load_salt
from nc_medfl.data.reading import Progress, Reading
from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.sources import SourceData, open_source
from nc_medfl.data.store import Store, open_store
from nc_medfl.data.worker import initialise
from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary, load_vocabulary

__all__ = ["PrepareSummary", "Progress", "prepare"]


def prepare(settings: PrepareSettings, progress: Progress | None = None) -> PrepareSummary:
    """Prepare a site's store.

    An interrupted run goes on where it stopped when called again. The same inputs and salt give the same bytes,
    whatever the engine. A complete store is replaced in one step, once all of the new one is on disk; until then
    it stands as it was. Files that it was made of, and that have not changed, are not read again.

    Args:
        settings: what to prepare, and how.
        progress: called with (files done, files in all, files by outcome).

    Raises:
        UserError: if settings, folder, table or map can't be used or don't fit the store that stands, another run
            is at work on it, the disk is full, or no image is left.
    """
    settings.check()
    plain_tables()
    vocabulary = load_vocabulary(settings.vocabulary)
    source = open_source(settings, vocabulary)
    _check_out(settings)
    _check_names(source)
    give_back()
    with _told_as_ours(settings), store_lock(settings.out):
        finish_swap(settings.out)
        clear_temporaries(settings.out)
        return _prepare(settings, vocabulary, source, progress or (lambda _done, _all, _outcomes: None))


def _prepare(
    settings: PrepareSettings, vocabulary: Vocabulary, source: SourceData, progress: Progress
) -> PrepareSummary:
    """As :func:`prepare`, under the store's lock."""
    standing, index = _standing(settings), read_index(settings.out)
    salt = load_salt(settings.out, settings.salt_file, public=source.public, anew=settings.replace)
    record = for_the_record(settings, source)
    reading_hash = stores.hash_of({"kind": source.kind, **pixel_settings(settings)})
    head = head_of(settings, source, vocabulary, salt=salt, reading=reading_hash, record=record)
    if standing is not None and not settings.replace:
        refuse_changes(standing, index, head, record, vocabulary)
    usable = standing is not None and index is not None and index.head.reading == reading_hash
    whole = standing if standing is not None and usable and shards_are_whole(standing) else None
    task = Task(settings, vocabulary, source, salt, head, whole)
    journal = Journal(settings.out, reading_hash)
    try:
        with _engine(settings, journal) as engine:
            reading = Reading(source, settings.size, journal, engine, progress, settings.jpeg2000_reduce)
            try:
                reading.resume(index if index is not None and index.head.reading == reading_hash else None)
                if whole is not None and index is not None and is_unchanged(whole, index, head, reading.records):
                    return _leave(task, whole, reading)
                give_back()
                reading.read_rest()
                if standing is not None and index is not None and not settings.replace:
                    refuse_losses(settings, standing, index, reading.records)
                before = _Splits(standing)
                summary = finish(task, reading)
            finally:
                reading.close()
    finally:
        journal.close()
    return replace(summary, warnings=(*summary.warnings, *_remarks(standing, index, task, before)))


@contextmanager
def _told_as_ours(settings: PrepareSettings) -> Iterator[None]:
    """A disk that is full, gone or not to be written ends in one line."""
    try:
        yield
    except OSError as error:
        # Not the error's own text, which names the file: its path may name a patient.
        raise UserError(
            f"{settings.out}: the preparation could not go on ({error.strerror or type(error).__name__}). "
            "Mend that, or give another --out, and run again; what is done is kept."
        ) from error


@contextmanager
def _engine(settings: PrepareSettings, journal: Journal) -> Iterator[Engine | None]:
    if settings.engine != "processes":
        from nc_medfl.data.dask_engine import dask_engine

        with dask_engine(settings.engine, settings.images, journal.folder) as engine:
            yield engine
    elif settings.workers:
        yield ProcessEngine(settings.workers, initialise)
    else:
        yield None


def _standing(settings: PrepareSettings) -> Store | None:
    """The complete store that stands, or None. One that is damaged counts as none; a newer one is refused."""
    out = settings.out
    if not all((out / name).is_file() for name in (stores.MANIFEST, stores.INFO)):
        return None
    try:
        return open_store(out, wanted=lambda column: column in ("shard", "row"))
    except UserError:
        try:
            newer = int(json.loads((out / stores.INFO).read_text(encoding="utf-8"))["schema_version"]) > SCHEMA_VERSION
        except (ValueError, KeyError, TypeError):
            newer = False
        if newer:
            raise
        return None


def _leave(task: Task, standing: Store, reading: Reading) -> PrepareSummary:
    """Nothing has changed: the store stands as it is."""
    clear_work(task.settings.out)
    counts = {str(outcome): int(count) for outcome, count in dict(standing.info.get("counts") or {}).items()}
    join = join_of(task.source, reading.records)
    task = replace(task, source=joined_source(task.source, join))
    give_back()
    return summarise(task, standing.folder, counts, join, reading.resumed, unchanged=True)


class _Splits:
    """Which split each image of a store is in.

    Args:
        store: the store, read at once; None: one without images.
    """

    def __init__(self, store: Store | None) -> None:
        names: list[str] = [] if store is None else pq.read_schema(store.folder / stores.MANIFEST).names
        columns = ["sample_id", "split"] if {"sample_id", "split"} <= set(names) else []
        table = None if store is None or not columns else stores.read_columns(store.folder, columns)
        samples, splits = ([], []) if table is None else (column.to_pylist() for column in table.columns)
        self._samples = np.array([(sample or "").encode() for sample in samples], dtype="S32")
        order = np.argsort(self._samples, kind="stable")
        self._samples = self._samples[order]
        self._splits = np.array([(split or "").encode() for split in splits], dtype="S5")[order]

    def moved(self, new: _Splits) -> int:
        """How many of the images that another state of the store has too are in another split there."""
        _, here, there = np.intersect1d(self._samples, new._samples, assume_unique=True, return_indices=True)
        return int((self._splits[here] != new._splits[there]).sum())


def _remarks(standing: Store | None, index: Index | None, task: Task, before: _Splits) -> tuple[str, ...]:
    """What a person should know who has used the store as it was."""
    if standing is None:
        return ()
    remarks = []
    if index is not None and index.head.labels != task.head.labels:
        remarks.append(
            f"{task.source.table} says other than when the store was first made; its labels are in force now."
        )
    old = dict((standing.info.get("settings") or {}).get("versions") or {})
    now = for_the_record(task.settings, task.source)["versions"]
    changed = [f"{name} {old[name]}, now {now[name]}" for name in now if name in old and old[name] != now[name]]
    if changed and task.standing is not None:
        remarks.append(f"Some images were read with {', '.join(changed)}; with another --out all are read alike.")
    moved = before.moved(_Splits(open_store(task.settings.out, wanted=lambda column: column in ("shard", "row"))))
    if moved:
        remarks.append(f"{moved} images changed between train, val and test: do not go on with a model trained before.")
    return tuple(remarks)


def _check_out(settings: PrepareSettings) -> None:
    """Refuse to write into somebody else's folder."""
    out = settings.out
    if out.resolve().is_relative_to(settings.images.resolve()):
        raise UserError(f"{out}: lies in the images folder. Give an --out elsewhere.")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file. Give a folder as --out.")
    ours = (out / stores.INFO).is_file() or (out / FOLDER).is_dir()
    if not ours and any(out.iterdir()):
        raise UserError(f"{out}: holds other files and is no store. Give a new or empty folder as --out.")


def _check_names(source: SourceData) -> None:
    """End before an hour of reading if no label can be about any image."""
    by_name = join_labels(source.labels.keys, [f.name for f in source.files], {}, match_name=source.match_name)
    by_uid = source.match_uid and any(is_uid(identifier_in(key)) for key in source.labels.keys)
    if not by_name.found_any and not by_uid and not source.match_accession:
        raise no_match(source)
