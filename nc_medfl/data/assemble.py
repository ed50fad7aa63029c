"""The last step of a preparation: judge files against each other and the labels, and write the store."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.data import store as stores
from nc_medfl.data.dicom.quarantine import REMEDIES, Outcome
from nc_medfl.data.join import Join
from nc_medfl.data.manifest import LABEL, RAW, keyed_hash
from nc_medfl.data.sources import SourceData
from nc_medfl.data.sources.nih import facts_of_table
from nc_medfl.data.splits import assign_splits
from nc_medfl.data.worker import Record
from nc_medfl.errors import UserError
from nc_medfl.labels import NO_FINDING, Vocabulary

#: Bytes of one shard: few files to map, and little memory to write one.
_SHARD_BYTES = 2**27


@dataclass(frozen=True)
class Kept:
    """An image that goes into the store.

    Attributes:
        record: what its file gave.
        label: its position in the label table.
        patient: the patient's identifier, in the clear.
        sample_id: its keyed name.
    """

    record: Record
    label: int
    patient: str
    sample_id: str


def judge(records: Sequence[Record], join: Join, source: SourceData, salt: bytes) -> tuple[list[Record], list[Kept]]:
    """Judge images against the label table and each other.

    Args:
        records: of all files, in the order of their names; of equal images the first is kept.
        join: images and their labels.
        source: the label table.
        salt: keys the sample names.

    Returns:
        All records with their final outcomes, and the kept images in the order of their keyed names.

    Raises:
        UserError: if one label row is about several different images.
    """
    final: list[Record] = []
    kept: list[Kept] = []
    seen = _Seen()
    for record in records:
        label = join.label_of.get(record.name)
        patients = source.labels.patients
        patient = record.identity.patient_id
        if label is not None and patients is not None:
            patient = patients[label]
        outcome, detail = _outcome(record, label, patient, seen)
        final.append(replace(record, outcome=outcome, detail=detail))
        if outcome == "ok" and label is not None:
            seen.add(record, patient)
            kept.append(Kept(record, label, patient, keyed_hash(salt, "sample", record.source_sha256)))
    _one_image_a_row(kept, source)
    return final, sorted(kept, key=lambda image: image.sample_id)


class _Seen:
    """Images kept so far, by UID and by pixels."""

    def __init__(self) -> None:
        self._pixels_of: dict[str, str] = {}
        self._patient_of: dict[str, str] = {}

    def add(self, record: Record, patient: str) -> None:
        if record.identity.sop_uid:
            self._pixels_of[record.identity.sop_uid] = record.pixel_sha256
        self._patient_of[record.pixel_sha256] = patient

    def judge(self, record: Record, patient: str) -> tuple[Outcome, str]:
        """Whether an image came before: as it is, with other pixels, or under another patient."""
        owner = self._patient_of.get(record.pixel_sha256)
        if owner is not None and owner != patient:
            return "duplicate_pixels", "its pixels were seen under another patient"
        pixels = self._pixels_of.get(record.identity.sop_uid)
        if pixels is not None and pixels != record.pixel_sha256:
            return "duplicate_uid", "its SOP Instance UID was seen with other pixels"
        if owner is not None:
            return "duplicate_image", "this patient's image was seen before"
        return "ok", record.detail


def _outcome(record: Record, label: int | None, patient: str, seen: _Seen) -> tuple[Outcome, str]:
    if record.outcome != "ok":
        return record.outcome, record.detail
    if label is None:
        return "no_label", "the label table has no row for it"
    if not patient:
        return "no_patient_id", "the patient's identifier is empty"
    return seen.judge(record, patient)


def check_rivals(join: Join, source: SourceData) -> None:
    """Make sure that rows about one image, spelt in different ways, say the same.

    Raises:
        UserError: naming two rows that disagree.
    """
    labels = source.labels
    for first, other in join.rivals:
        same = np.array_equal(labels.labels[first], labels.labels[other], equal_nan=True)
        same = same and np.array_equal(labels.no_finding[[first]], labels.no_finding[[other]], equal_nan=True)
        if not same or (labels.patients is not None and labels.patients[first] != labels.patients[other]):
            raise UserError(
                f"{source.table}: rows {labels.rows[first] + 2} and {labels.rows[other] + 2} are about one image, "
                "named in two ways, and disagree. Keep one of them, or give paths relative to the images folder."
            )


def _one_image_a_row(kept: Sequence[Kept], source: SourceData) -> None:
    seen: set[int] = set()
    for image in kept:
        if image.label in seen:
            row = source.labels.rows[image.label] + 2
            raise UserError(
                f"{source.table}: row {row} fits several different images, as its name stands in several folders or "
                "with several extensions. Give paths relative to the images folder, or SOP Instance UIDs."
            )
        seen.add(image.label)


def manifest_of(
    kept: Sequence[Kept],
    source: SourceData,
    vocabulary: Vocabulary,
    *,
    salt: bytes,
    site: str,
    fractions: tuple[float, float, float],
    seed: int,
    settings_hash: str,
    size: int,
) -> pd.DataFrame:
    """Manifest rows of the kept images, keyed, split, and with the place of their pixels."""
    rows = [_row(image, source, salt) for image in kept]
    frame: pd.DataFrame = pd.DataFrame(rows)
    positions = np.array([image.label for image in kept], dtype=np.int64)
    labels = source.labels.labels[positions]
    for column, name in enumerate(vocabulary.findings):
        frame[f"{LABEL}{name}"] = labels[:, column]
    frame[f"{LABEL}{NO_FINDING}"] = source.labels.no_finding[positions]
    for name, texts in source.labels.raw.items():
        frame[f"{RAW}{name}"] = [texts[position] for position in positions]
    frame["split"] = assign_splits([image.patient for image in kept], labels, fractions, seed)
    a_shard = rows_per_shard(size)
    frame["shard"] = np.arange(len(kept)) // a_shard
    frame["row"] = np.arange(len(kept)) % a_shard
    frame["site"] = site
    frame["settings_hash"] = settings_hash
    return frame


def _row(image: Kept, source: SourceData, salt: bytes) -> dict[str, object]:
    record, identity = image.record, image.record.identity
    facts = record.facts
    if facts is None:
        raise ValueError("a kept image has facts")
    if source.kind == "picture":
        facts = facts_of_table(facts, source.extra.get(source.labels.keys[image.label], {}))
    study = identity.study_uid or identity.sop_uid or record.source_sha256
    return {
        "sample_id": image.sample_id,
        "patient_key": keyed_hash(salt, "patient", image.patient),
        "study_key": keyed_hash(salt, "study", study),
        "source_sha256": record.source_sha256,
        "pixel_sha256": record.pixel_sha256,
        "pad_box": record.pad_box,
        **vars(facts),
    }


def rows_per_shard(size: int) -> int:
    """Images of one shard."""
    return max(1, _SHARD_BYTES // size**2)


def write_shards(store: Path, kept: Sequence[Kept], chunks: Path, size: int) -> None:
    """Gather the kept images' pixels from the workers' chunks into shards, in order."""
    shutil.rmtree(store / stores.SHARDS, ignore_errors=True)
    a_shard = rows_per_shard(size)
    for number, start in enumerate(range(0, len(kept), a_shard)):
        part = kept[start : start + a_shard]
        images: npt.NDArray[np.uint8] = np.empty((len(part), size, size), dtype=np.uint8)
        names = np.array([image.record.chunk for image in part])
        rows = np.array([image.record.row for image in part])
        for name in np.unique(names):
            here = np.flatnonzero(names == name)
            images[here] = np.load(chunks / str(name), mmap_mode="r", allow_pickle=False)[rows[here]]
        stores.write_shard(store, number, images)


def write_quarantine(store: Path, records: Sequence[Record]) -> None:
    """Write ``quarantine.csv``: hash, outcome and remedy of every file that was not kept, and nothing else."""
    rejected = sorted((r.source_sha256, r.outcome) for r in records if r.outcome != "ok")
    lines = ["source_sha256,outcome,remedy"]
    lines += [f'{digest},{outcome},"{REMEDIES[outcome]}"' for digest, outcome in rejected]
    stores.write_atomic(store / stores.QUARANTINE, ("\n".join(lines) + "\n").encode())


def positives_by_split(frame: pd.DataFrame, vocabulary: Vocabulary) -> Mapping[str, Mapping[str, int]]:
    """Positives of each finding in each split."""
    return {
        name: {
            split: int((frame.loc[frame["split"] == split, f"{LABEL}{name}"] == 1).sum())
            for split in ("train", "val", "test")
        }
        for name in vocabulary.findings
    }
