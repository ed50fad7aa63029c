"""The end of a preparation: judge what was read, make the new state of the store, and swap it in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from nc_medfl.data import store as stores
from nc_medfl.data.assemble import (
    judge,
    manifest_parts,
    patient_of,
    positives_by_split,
    write_quarantine,
)
from nc_medfl.data.dicom.identifier import clean_identifier
from nc_medfl.data.dicom.quarantine import OUTCOMES
from nc_medfl.data.generation import begin_generation, swap_generation
from nc_medfl.data.index import IndexHead, write_index
from nc_medfl.data.join import Join, identifier_in, join_labels, joined_source, lost_zeros
from nc_medfl.data.manifest import LABEL, SPLITS, keyed_hash
from nc_medfl.data.memory import give_back
from nc_medfl.data.private import FOLDER, clear_work, write_private_table
from nc_medfl.data.reading import Reading
from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.shards import Kept, Places, lacking_pixels, write_shards
from nc_medfl.data.sourcelist import SOURCES
from nc_medfl.data.sources import SourceData
from nc_medfl.data.store import Store
from nc_medfl.data.tombstones import withdrawn_keys
from nc_medfl.data.worker import Record
from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary, conflicts_told, silence_told

_ZEROS = "Numbers in the image column seem to have lost leading zeros; export that column as text."


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
        resumed: files that an earlier run had read already.
        warnings: remarks for the person who runs it.
        notes: what the label table doesn't speak of.
        unchanged: whether the store stood already and was left as it was.
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
    unchanged: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One preparation: everything that is settled before the first file is read.

    Attributes:
        settings: what to prepare, and how.
        vocabulary: the findings.
        source: files and labels.
        salt: keys identifiers.
        head: hashes of all that.
        standing: the complete store that stands, if its pixels may be used; its shards are whole.
    """

    settings: PrepareSettings
    vocabulary: Vocabulary
    source: SourceData
    salt: bytes
    head: IndexHead
    standing: Store | None

    @property
    def settings_hash(self) -> str:
        """Hash of the settings that decide pixels and labels."""
        return stores.hash_of({"vocabulary": self.vocabulary.fingerprint, **pixel_settings(self.settings)})


def pixel_settings(settings: PrepareSettings) -> dict[str, Any]:
    """What decides the pixels of a file."""
    from nc_medfl.data.dicom.reader import READER_VERSION

    return {"reader": READER_VERSION, "size": settings.size, "jpeg2000_reduce": settings.jpeg2000_reduce}


def for_the_record(settings: PrepareSettings, source: SourceData) -> dict[str, Any]:
    """The settings as they stand in ``prepare.json``: no paths."""
    return {
        **pixel_settings(settings),
        "shift_dates": settings.shift_dates,
        "source": settings.source,
        "site": settings.site,
        "label_map": source.label_map,
        "uncertain": source.uncertain,
        "blank": source.blank,
        **source.record,
        "fractions": list(settings.fractions),
        "seed": settings.seed,
        "versions": {name: version(name) for name in ("pydicom", "imagecodecs", "opencv-python-headless", "numpy")},
    }


def join_of(source: SourceData, records: Sequence[Record]) -> Join:
    """Labels and images brought together.

    Args:
        source: labels, and the files.
        records: of the files, in their order.

    Raises:
        UserError: if no label is about any image.
    """
    wanted = source.labels.keys if source.match_uid or source.match_accession else ()
    keys = frozenset(map(identifier_in, wanted))
    uids: dict[str, str] = {}
    accessions: dict[str, str] = {}
    for record in records if keys else ():
        if record.identity.sop_uid in keys:
            uids[record.name] = record.identity.sop_uid
        if (accession := record.identity.accession.strip()) in keys:
            accessions[record.name] = accession
    join = join_labels(
        source.labels.keys,
        [file.name for file in source.files],
        uids,
        accessions=accessions if source.match_accession else None,
        match_name=source.match_name,
        match_uid=source.match_uid,
    )
    if not join.found_any:
        raise no_match(source)
    return join


def no_match(source: SourceData) -> UserError:
    """The error of a table that is about none of the images."""
    zeros = f" {_ZEROS}" if lost_zeros(source.labels.keys, (file.name for file in source.files)) else ""
    return UserError(
        f"{source.table}: none of its {len(source.labels.keys)} images is among the {len(source.files)} files of "
        f"--images. Check the folder, or name the column with the file names with --image-column.{zeros}"
    )


def finish(task: Task, reading: Reading) -> PrepareSummary:
    """Judge what was read and bring the store to its new state, in one step that a crash doesn't cut in two.

    Raises:
        UserError: if no image can be used or labels contradict each other; the store stands as it was then.
    """
    settings, source, records = task.settings, task.source, reading.records
    places = Places(task.standing)
    withdrawn = withdrawn_keys(settings.out)
    while True:
        join = join_of(task.source, records)
        give_back()
        source = joined_source(task.source, join)
        final, kept = judge(records, join, source, task.salt, withdrawn)
        # An image that was left out before, and is now wanted, has no pixels in the store.
        lacking = lacking_pixels(kept, records, places)
        if not lacking:
            break
        reading.read_again(lacking)
    task = replace(task, source=source)
    counts = counts_of(final)
    if not len(kept):
        raise _nothing_usable(task, final, join, counts)
    fresh = begin_generation(settings.out)
    write_shards(fresh, kept, records, reading.journal.folder, settings.size, task.standing, places)
    write_quarantine(fresh, final)
    write_lists(fresh / FOLDER, task, final, kept, join)
    give_back()
    rows = manifest_parts(
        kept,
        records,
        source,
        task.vocabulary,
        salt=task.salt,
        site=settings.site,
        fractions=settings.fractions,
        seed=settings.seed,
        settings_hash=task.settings_hash,
        size=settings.size,
        shift_dates=settings.shift_dates,
    )
    stores.describe_store(
        fresh,
        rows,
        task.vocabulary,
        size=settings.size,
        settings=for_the_record(settings, source),
        counts=counts,
        settings_hash=task.settings_hash,
        labels=label_counts(source, counts, join),
    )
    give_back()
    summary = summarise(task, fresh, counts, join, reading.resumed)
    give_back()
    write_index(fresh / FOLDER, replace(task.head, manifest=stores.hash_of_file(fresh / stores.MANIFEST)), records)
    reading.close()
    swap_generation(settings.out)
    clear_work(settings.out)
    return summary


def summarise(
    task: Task, store: Path, counts: Mapping[str, int], join: Join, resumed: int, *, unchanged: bool = False
) -> PrepareSummary:
    """The numbers of a complete store, which lies in ``store`` still or already."""
    labels = [f"{LABEL}{name}" for name in task.vocabulary.findings]
    table = stores.read_columns(store, ["patient_key", "split", *labels])
    return PrepareSummary(
        store=task.settings.out,
        images=table.num_rows,
        patients=int(pc.count_distinct(table["patient_key"]).as_py()),
        counts=dict(counts),
        splits={split: int(pc.sum(pc.equal(table["split"], split)).as_py() or 0) for split in SPLITS},
        positives=positives_by_split(table, task.vocabulary),
        labels_without_image=len(join.unmatched),
        resumed=resumed,
        warnings=_warnings(task.source, counts, join),
        unchanged=unchanged,
        notes=silence_told(task.source.preview, task.source.table),
    )


def counts_of(final: Iterable[Record]) -> dict[str, int]:
    """Files by outcome, in the order of the closed list."""
    counted = Counter(record.outcome for record in final)
    return {outcome: counted[outcome] for outcome in OUTCOMES if counted[outcome]}


def _nothing_usable(task: Task, final: Sequence[Record], join: Join, counts: Mapping[str, int]) -> UserError:
    """The error of a folder without a usable image; why each isn't is listed, if no store stands in the way."""
    out = task.settings.out
    older = (out / stores.MANIFEST).is_file()
    if not older:
        fresh = begin_generation(out)
        write_quarantine(fresh, final)
        write_lists(fresh / FOLDER, task, final, None, join)
        swap_generation(out)
    listed = ", ".join(f"{outcome} {count}" for outcome, count in counts.items())
    why = (
        "The earlier store in --out stands as it was; with another --out the reasons are listed."
        if older
        else f"{stores.QUARANTINE} and {FOLDER}/{SOURCES} under --out say why."
    )
    return UserError(f"--images: no image can be used ({listed}). {why}")


def write_lists(folder: Path, task: Task, final: Sequence[Record], kept: Kept | None, join: Join) -> None:
    """The way back: which file and which original UIDs each sample is of, and the labels that found no image.

    Args:
        folder: ``site_private`` of the new state.
        task: the preparation.
        final: all files as they were judged.
        kept: the images of the store, if there are any.
        join: of images and labels.
    """
    source = task.source
    samples = np.zeros(len(final), dtype="S32")
    if kept is not None:
        samples[kept.positions] = kept.samples

    def rows() -> Iterator[tuple[str, ...]]:
        for position, (file, record) in enumerate(zip(source.files, final, strict=True)):
            # Whole, since the next command may be given in another folder.
            path = str(file.path.absolute())
            if record.outcome == "withdrawn":
                continue
            patient = clean_identifier(patient_of(record, int(join.label_at[position]), source))
            yield (
                *(samples[position].decode(), record.outcome, record.detail, path, file.member),
                *(record.identity.study_uid, record.identity.sop_uid, record.source_sha256),
                keyed_hash(task.salt, "patient", patient) if patient else "",
            )

    header = ("sample_id", "outcome", "detail", "path", "member", "study_uid", "sop_uid", "source_sha256")
    write_private_table(folder / SOURCES, (*header, "patient_key"), rows())
    write_private_table(
        folder / "labels_without_image.csv",
        ("row", "image"),
        ((str(source.labels.rows[p] + 2), source.labels.keys[p]) for p in join.unmatched),
    )


def _warnings(source: SourceData, counts: Mapping[str, int], join: Join) -> tuple[str, ...]:
    found = list(getattr(source.files, "remarks", ()))
    if counts.get("unreadable"):
        found.append(
            f"{counts['unreadable']} files can't be read and are left out (unreadable). {FOLDER}/{SOURCES} says which, "
            "and why; mend that and run again: they alone are tried again."
        )
    if counts.get("no_label"):
        found.append(f"{counts['no_label']} images have no row in {source.table} and are left out (no_label).")
    if join.unmatched:
        found.append(
            f"{len(join.unmatched)} rows of {source.table} are about images that are not in the folder "
            f"({FOLDER}/labels_without_image.csv lists them)."
        )
        if lost_zeros((source.labels.keys[p] for p in join.unmatched), (file.name for file in source.files)):
            found.append(f"{source.table}: {_ZEROS}")
    return (*found, *conflicts_told(source.preview, source.table))


def label_counts(source: SourceData, counts: Mapping[str, int], join: Join) -> dict[str, Any]:
    """What was made of the label table, as it stands in ``prepare.json``: counts, and no text of the table."""
    told = source.preview.to_json()
    return {
        **{key: value for key, value in told.items() if key not in ("left_out", "unmapped_columns", "unmapped_values")},
        "findings": [{key: value for key, value in row.items() if key != "sources"} for row in told["findings"]],
        "unmapped_columns": len(told["unmapped_columns"]),
        "unmapped_values": len(told["unmapped_values"]),
        "rows_without_image": len(join.unmatched),
        "images_without_row": int(counts.get("no_label", 0)),
    }
