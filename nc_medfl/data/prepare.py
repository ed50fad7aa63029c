"""From a folder of radiographs and a label table to a store, resumable and without identifiers."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nc_medfl.data import store as stores
from nc_medfl.data.assemble import (
    Kept,
    check_rivals,
    judge,
    manifest_of,
    positives_by_split,
    write_quarantine,
    write_shards,
)
from nc_medfl.data.dicom.quarantine import OUTCOMES
from nc_medfl.data.dicom.reader import READER_VERSION
from nc_medfl.data.engine import run_batches
from nc_medfl.data.join import Join, join_labels
from nc_medfl.data.private import FOLDER, Journal, load_salt, private_folder, write_private_table
from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.sources import SourceData, SourceFile, open_source
from nc_medfl.data.worker import Batch, Record, crashed, initialise, read_batch
from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary, load_vocabulary

Progress = Callable[[int, int], None]

_FILES_A_BATCH = 32
#: Identifiers look like this where labels are keyed by SOP Instance UID.
_UID = re.compile(r"\d+(\.\d+){3,}")


@dataclass(frozen=True)
class PrepareSummary:
    """What a preparation did, in numbers that identify nobody.

    Attributes:
        store: the store's folder.
        images: images in it.
        patients: patients they are of.
        counts: files by outcome, those that occurred.
        splits: images by split.
        positives: positives by finding and split.
        labels_without_image: rows of the label table whose image is not in the folder.
        resumed: files that an interrupted run had read already.
        warnings: remarks for the person who runs it.
    """

    store: Path
    images: int
    patients: int
    counts: Mapping[str, int]
    splits: Mapping[str, int]
    positives: Mapping[str, Mapping[str, int]]
    labels_without_image: int
    resumed: int
    warnings: tuple[str, ...]


def prepare(settings: PrepareSettings, progress: Progress | None = None) -> PrepareSummary:
    """Prepare a site's store.

    An interrupted run goes on where it stopped when called again. The same inputs and salt give the same bytes,
    whatever the number of workers. The manifest is written last: a folder without it is no store.

    Args:
        settings: what to prepare, and how.
        progress: called with (files done, files in all).

    Raises:
        UserError: if settings, folder, table or map can't be used, or no image is left.
    """
    settings.check()
    vocabulary = load_vocabulary(settings.vocabulary)
    source = open_source(settings, vocabulary)
    _check_out(settings)
    _check_names(source)
    try:
        private_folder(settings.out)
        salt = load_salt(settings.out, settings.salt_file, public=source.public)
        about = {"kind": source.kind, "images": str(settings.images.resolve()), **_pixel_settings(settings)}
        journal = Journal(settings.out, _hash(about))
    except OSError as error:
        raise UserError(f"{settings.out}: cannot be written ({error.strerror}). Give another --out.") from error
    try:
        records, resumed = _read_all(source, settings, journal, progress or (lambda _done, _all: None))
        return _finish(settings, vocabulary, source, records, salt, journal, resumed)
    except OSError as error:
        # Not the error's own text, which names the file: its path may name a patient.
        raise UserError(
            f"{settings.out}: the preparation could not go on ({error.strerror or type(error).__name__}). "
            "Mend that and run again; what is done is kept."
        ) from error
    finally:
        journal.close()


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
    """End before an hour of reading if no label can be about any image, or two disagree about one."""
    by_name = join_labels(source.labels.keys, [f.name for f in source.files], {}, match_name=source.match_name)
    by_uid = source.match_uid and any(_UID.fullmatch(key) for key in source.labels.keys)
    if not by_name.label_of and not by_uid:
        raise _no_match(source)
    check_rivals(by_name, source)


def _no_match(source: SourceData) -> UserError:
    return UserError(
        f"{source.table}: none of its {len(source.labels.keys)} images is among the {len(source.files)} files of "
        "--images. Check the folder, or name the column with the file names with --image-column."
    )


def _pixel_settings(settings: PrepareSettings) -> dict[str, Any]:
    return {"reader": READER_VERSION, "size": settings.size}


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_all(
    source: SourceData, settings: PrepareSettings, journal: Journal, progress: Progress
) -> tuple[list[Record], int]:
    """Records of all files in the order of their names, reading those that the journal doesn't have."""
    known = journal.load()
    records = {file.name: known[file.name] for file in source.files if _is_current(file, known.get(file.name))}
    resumed, total = len(records), len(source.files)
    waiting = [file for file in source.files if file.name not in records]
    batches = _batches(waiting, source, settings, journal)
    progress(resumed, total)
    # Closed at once on an error or Ctrl-C, not when the traceback is forgotten, so that the pool stops.
    with closing(
        run_batches(
            read_batch, batches, workers=settings.workers, initialise=initialise, split=Batch.singles, crashed=crashed
        )
    ) as results:
        for done in results:
            journal.append(done)
            records.update((record.name, record) for record in done)
            progress(len(records), total)
    return [records[file.name] for file in source.files], resumed


def _is_current(file: SourceFile, record: Record | None) -> bool:
    if record is None:
        return False
    status = file.path.stat()
    return (status.st_size, status.st_mtime_ns) == (record.bytes, record.mtime_ns)


def _batches(
    files: Sequence[SourceFile], source: SourceData, settings: PrepareSettings, journal: Journal
) -> list[Batch]:
    # Few files are cut finer, so that all workers have some and the progress moves.
    length = min(_FILES_A_BATCH, max(1, len(files) // (8 * max(1, settings.workers))))
    first = journal.free_chunk()
    return [
        Batch(source.kind, settings.size, tuple(files[at : at + length]), journal.folder / f"{first + number}.npy")
        for number, at in enumerate(range(0, len(files), length))
    ]


def _finish(
    settings: PrepareSettings,
    vocabulary: Vocabulary,
    source: SourceData,
    records: Sequence[Record],
    salt: bytes,
    journal: Journal,
    resumed: int,
) -> PrepareSummary:
    uids = {record.name: record.identity.sop_uid for record in records}
    join = join_labels(
        source.labels.keys,
        [record.name for record in records],
        uids,
        match_name=source.match_name,
        match_uid=source.match_uid,
    )
    if not join.label_of:
        raise _no_match(source)
    check_rivals(join, source)
    final, kept = judge(records, join, source, salt)
    counted = Counter(record.outcome for record in final)
    counts: dict[str, int] = {outcome: counted[outcome] for outcome in OUTCOMES if counted[outcome]}
    out = settings.out
    older = (out / stores.MANIFEST).is_file()
    if kept or not older:
        # From here until the manifest is written the folder is no store. One that stands already is not given
        # up for nothing.
        for name in (stores.MANIFEST, stores.INFO):
            (out / name).unlink(missing_ok=True)
        write_quarantine(out, final)
        _write_private(out, source, final, kept, join)
    if not kept:
        listed = ", ".join(f"{outcome} {count}" for outcome, count in counts.items())
        why = f"{stores.QUARANTINE} and {FOLDER}/sources.csv under --out say why."
        raise UserError(
            f"{settings.images}: no image can be used ({listed}). "
            + (
                "The earlier store in --out stands as it was; with another --out the reasons are listed."
                if older
                else why
            )
        )
    settings_hash = _hash({"vocabulary": vocabulary.fingerprint, **_pixel_settings(settings)})
    frame = manifest_of(
        kept,
        source,
        vocabulary,
        salt=salt,
        site=settings.site,
        fractions=settings.fractions,
        seed=settings.seed,
        settings_hash=settings_hash,
        size=settings.size,
    )
    write_shards(out, kept, journal.folder, settings.size)
    stores.write_store(
        out,
        frame,
        vocabulary,
        size=settings.size,
        settings=_for_the_record(settings, source),
        counts=counts,
        settings_hash=settings_hash,
    )
    journal.discard()
    splits = frame["split"].value_counts()
    return PrepareSummary(
        store=out,
        images=len(frame),
        patients=int(frame["patient_key"].nunique()),
        counts=counts,
        splits={split: int(splits.get(split, 0)) for split in ("train", "val", "test")},
        positives=positives_by_split(frame, vocabulary),
        labels_without_image=len(join.unmatched),
        resumed=resumed,
        warnings=_warnings(source, counts, join),
    )


def _for_the_record(settings: PrepareSettings, source: SourceData) -> dict[str, Any]:
    """The settings as they stand in ``prepare.json``: no paths."""
    return {
        **_pixel_settings(settings),
        "source": settings.source,
        "site": settings.site,
        "label_map": source.label_map,
        "uncertain": source.uncertain,
        "fractions": list(settings.fractions),
        "seed": settings.seed,
        "versions": {name: version(name) for name in ("pydicom", "imagecodecs", "opencv-python-headless", "numpy")},
    }


def _write_private(out: Path, source: SourceData, final: Sequence[Record], kept: Sequence[Kept], join: Join) -> None:
    """The way back: which file and which original UIDs each sample is of, and the labels that found no image."""
    folder = private_folder(out)
    sample_of = {image.record.name: image.sample_id for image in kept}
    paths = {file.name: str(file.path) for file in source.files}
    write_private_table(
        folder / "sources.csv",
        ("sample_id", "outcome", "detail", "path", "study_uid", "sop_uid", "source_sha256"),
        (
            (
                *(sample_of.get(r.name, ""), r.outcome, r.detail, paths[r.name]),
                *(r.identity.study_uid, r.identity.sop_uid, r.source_sha256),
            )
            for r in final
        ),
    )
    write_private_table(
        folder / "labels_without_image.csv",
        ("row", "image"),
        ((str(source.labels.rows[p] + 2), source.labels.keys[p]) for p in join.unmatched),
    )


def _warnings(source: SourceData, counts: Mapping[str, int], join: Join) -> tuple[str, ...]:
    found = []
    if counts.get("no_label"):
        found.append(f"{counts['no_label']} images have no row in {source.table} and are left out (no_label).")
    if join.unmatched:
        found.append(
            f"{len(join.unmatched)} rows of {source.table} are about images that are not in the folder "
            f"({FOLDER}/labels_without_image.csv lists them)."
        )
    if source.labels.contradictory:
        found.append(
            f"{source.labels.contradictory} images are labelled 'No Finding' and with a finding; the finding counts."
        )
    if merged := source.labels.merged + len({other for _, other in join.rivals}):
        found.append(f"{merged} rows of {source.table} repeat another and are merged.")
    return tuple(found)
