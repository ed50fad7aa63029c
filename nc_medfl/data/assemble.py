"""The last step of a preparation: judge files against each other and the labels, and write the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.data import store as stores
from nc_medfl.data.dicom.identifier import clean_identifier
from nc_medfl.data.dicom.quarantine import REMEDIES, Outcome
from nc_medfl.data.join import Join
from nc_medfl.data.manifest import LABEL, RAW, keyed_hash
from nc_medfl.data.sources import SourceData
from nc_medfl.data.sources.facts import facts_of_table
from nc_medfl.data.splits import assign_splits
from nc_medfl.data.store import Store
from nc_medfl.data.tombstones import Withdrawn
from nc_medfl.data.worker import Record
from nc_medfl.errors import UserError
from nc_medfl.labels import NO_FINDING, Vocabulary

NOBODY = Withdrawn()
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


#: Outcomes of images that are fit for the store, but for others like them.
_JUDGED_TOGETHER = ("ok", "duplicate_uid", "duplicate_pixels", "duplicate_image")


def judge(
    records: Sequence[Record], join: Join, source: SourceData, salt: bytes, withdrawn: Withdrawn = NOBODY
) -> tuple[list[Record], list[Kept]]:
    """Judge images against the label table and each other.

    Args:
        records: of all files, in the order of their names; of equal images the first is kept.
        join: images and their labels.
        source: the label table.
        salt: keys the sample names.
        withdrawn: who must not come back.

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
            patient = clean_identifier(patients[label])
        outcome, detail = _outcome(record, label, patient, seen)
        if outcome in _JUDGED_TOGETHER and withdrawn.covers(salt, patient, record.source_sha256):
            outcome, detail = "withdrawn", "the patient or the image was withdrawn"
        same = (outcome, detail) == (record.outcome, record.detail)
        final.append(record if same else replace(record, outcome=outcome, detail=detail))
        if outcome == "withdrawn":
            # The same pixels must not come back under another patient's name.
            seen.add(record, patient)
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


def _one_image_a_row(kept: Sequence[Kept], source: SourceData) -> None:
    seen: set[int] = set()
    for image in kept if not source.match_accession else ():
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
    columns: dict[str, list[object]] = {}
    for image in kept:
        for name, value in _row(image, source, salt).items():
            columns.setdefault(name, []).append(value)
    frame: pd.DataFrame = pd.DataFrame(columns)
    del columns
    positions = np.array([image.label for image in kept], dtype=np.int64)
    labels = source.labels.labels[positions]
    for column, name in enumerate(vocabulary.findings):
        frame[f"{LABEL}{name}"] = labels[:, column]
    frame[f"{LABEL}{NO_FINDING}"] = source.labels.no_finding[positions]
    for name, texts in source.labels.raw.items():
        frame[f"{RAW}{name}"] = [texts[position] for position in positions]
    if source.splits:
        frame["split"] = [source.splits[source.labels.keys[position]] for position in positions]
    else:
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
        **{f.name: getattr(facts, f.name) for f in fields(facts)},
    }


def rows_per_shard(size: int) -> int:
    """Images of one shard."""
    return max(1, _SHARD_BYTES // size**2)


def write_shards(
    folder: Path,
    kept: Sequence[Kept],
    chunks: Path,
    size: int,
    standing: Store | None = None,
    places: Mapping[str, int] = MappingProxyType({}),
) -> bool:
    """Gather the kept images' pixels into shards, in order.

    Args:
        folder: the new state of the store.
        kept: its images.
        chunks: the folder with the chunks that the workers left.
        size: side of the stored square.
        standing: a store whose pixels may be used.
        places: where in it the pixels of a file are, by the hash of the file; for images without a chunk.

    Returns:
        Whether there was anything to write: the shards of the standing store are left alone if they hold just this.
    """
    if standing is not None and _same_shards(kept, standing, places, size):
        return False
    a_shard = rows_per_shard(size)
    for number, start in enumerate(range(0, len(kept), a_shard)):
        part = kept[start : start + a_shard]
        images: npt.NDArray[np.uint8] = np.empty((len(part), size, size), dtype=np.uint8)
        names = np.array([image.record.chunk for image in part])
        rows = np.array([image.record.row for image in part])
        for name in np.unique(names):
            here = np.flatnonzero(names == name)
            if name:
                images[here] = np.load(chunks / str(name), mmap_mode="r", allow_pickle=False)[rows[here]]
            elif standing is not None:
                images[here] = standing.images([places[part[at].record.source_sha256] for at in here.tolist()])
        stores.write_shard(folder, number, images)
    return True


def _same_shards(kept: Sequence[Kept], standing: Store, places: Mapping[str, int], size: int) -> bool:
    if len(kept) != len(standing) or any(image.record.chunk for image in kept):
        return False
    positions = np.array([places[image.record.source_sha256] for image in kept], dtype=np.int64)
    a_shard = rows_per_shard(size)
    expected = np.arange(len(kept))
    shards, rows = (standing.manifest[name].to_numpy()[positions] for name in ("shard", "row"))
    numbers = range(int(expected[-1]) // a_shard + 1)
    lengths = sum(len(standing.shard(number)) for number in numbers)
    return bool((shards == expected // a_shard).all() and (rows == expected % a_shard).all() and lengths == len(kept))


def write_quarantine(store: Path, records: Sequence[Record]) -> None:
    """Write ``quarantine.csv``: hash, outcome and remedy of every file that was not kept, and nothing else.

    Withdrawn ones are counted in ``prepare.json`` only.
    """
    rejected = sorted((r.source_sha256, r.outcome) for r in records if r.outcome not in ("ok", "withdrawn"))
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
