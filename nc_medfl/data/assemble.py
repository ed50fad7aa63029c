"""The last step of a preparation: judge files against each other and the labels, and write the store."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from sys import intern

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nc_medfl.data import store as stores
from nc_medfl.data.dates import shifted_date
from nc_medfl.data.dicom.identifier import clean_identifier
from nc_medfl.data.dicom.quarantine import REMEDIES, Outcome
from nc_medfl.data.join import Join
from nc_medfl.data.manifest import LABEL, RAW, SPLITS, keyed_hash
from nc_medfl.data.records import Records
from nc_medfl.data.shards import Kept, rows_per_shard
from nc_medfl.data.sources import SourceData
from nc_medfl.data.sources.facts import facts_of_table
from nc_medfl.data.splits import assign_splits
from nc_medfl.data.tombstones import Withdrawn
from nc_medfl.data.worker import Record
from nc_medfl.errors import UserError
from nc_medfl.labels import NO_FINDING, Vocabulary

NOBODY = Withdrawn()
#: Manifest rows that are made at once: for what memory they take.
_ROWS_A_PART = 8192


class Judged(Records):
    """Records with their final outcomes; where those are as the files themselves gave them, the records as they are.

    Args:
        records: of all files.
        verdicts: what was found otherwise.
        number_of: which of the verdicts on each file, 0 where none, ``[files]``.
    """

    def __init__(self, records: Sequence[Record], verdicts: Sequence[tuple[Outcome, str]], number_of: bytes) -> None:
        self._records, self._verdicts, self._number_of = records, verdicts, number_of

    def __len__(self) -> int:
        return len(self._records)

    def at(self, index: int) -> Record:
        """The record of a file, with its final outcome."""
        record = self._records[index]
        if not self._number_of[index]:
            return record
        outcome, detail = self._verdicts[self._number_of[index] - 1]
        return replace(record, outcome=outcome, detail=detail)


def judge(
    records: Sequence[Record], join: Join, source: SourceData, salt: bytes, withdrawn: Withdrawn = NOBODY
) -> tuple[Judged, Kept]:
    """Judge images against the label table and each other.

    Args:
        records: of all files, in the order of their names; of equal images the first is kept.
        join: images and their labels.
        source: the label table.
        salt: keys the sample names.
        withdrawn: who must not come back.

    Returns:
        All records with their final outcomes, and the kept images.

    Raises:
        UserError: if one label row is about several different images.
    """
    verdicts: list[tuple[Outcome, str]] = []
    number_of = bytearray(len(records))
    positions, labels, samples = array("q"), array("q"), bytearray()
    twins = _twins(records)
    seen = _Seen()
    for position, record in enumerate(records):
        label = int(join.label_at[position])
        patient = patient_of(record, label, source)
        # Most images resemble no other, and need not be remembered.
        known = seen if twins[position] else _NOTHING_SEEN
        outcome, detail = _outcome(record, label, patient, known)
        if withdrawn.covers(salt, patient, record.source_sha256):
            # Of rejected files too, which would come back to the lists.
            outcome, detail = "withdrawn", "the patient or the image was withdrawn"
        if (outcome, detail) != (record.outcome, record.detail):
            if (outcome, detail) not in verdicts:
                verdicts.append((outcome, detail))
            number_of[position] = verdicts.index((outcome, detail)) + 1
        # Withdrawn pixels must not come back under another patient's name.
        if twins[position] and (outcome == "withdrawn" or (outcome == "ok" and label >= 0)):
            seen.add(record, patient)
        if outcome == "ok" and label >= 0:
            positions.append(position)
            labels.append(label)
            samples += keyed_hash(salt, "sample", record.source_sha256).encode()
    _one_image_a_row(labels, source)
    names = np.frombuffer(samples, dtype="S32")
    order = np.argsort(names, kind="stable")
    kept = Kept(np.array(positions, dtype=np.int64)[order], np.array(labels, dtype=np.int64)[order], names[order])
    return Judged(records, verdicts, bytes(number_of)), kept


def patient_of(record: Record, label: int, source: SourceData) -> str:
    """The patient's identifier, in the clear: as the label table has it, else as the file's header.

    Args:
        record: of the file.
        label: position in the label table; -1 where it has no row.
        source: the label table.
    """
    patients = source.labels.patients
    return record.identity.patient_id if patients is None or label < 0 else clean_identifier(patients[label])


def _twins(records: Sequence[Record]) -> npt.NDArray[np.bool_]:
    """Whether an image may share its pixels or its UID with another, ``[files]``; never false where it does."""
    pixels: npt.NDArray[np.int64] = np.zeros(len(records), dtype=np.int64)
    uids = pixels.copy()
    for position, record in enumerate(records):
        if record.outcome == "ok":
            pixels[position] = hash(record.pixel_sha256) or 1
            uids[position] = hash(record.identity.sop_uid) if record.identity.sop_uid else 0
    return _repeated(pixels) | _repeated(uids)


def _repeated(values: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which values, 0 left out, occur more than once."""
    order = np.argsort(values)
    equal = values[order][1:] == values[order][:-1]
    found: npt.NDArray[np.bool_] = np.zeros(len(values), dtype=bool)
    found[order[1:][equal]] = found[order[:-1][equal]] = True
    found &= values != 0
    return found


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


_NOTHING_SEEN = _Seen()


def _outcome(record: Record, label: int, patient: str, seen: _Seen) -> tuple[Outcome, str]:
    if record.outcome != "ok":
        return record.outcome, record.detail
    if label < 0:
        return "no_label", "the label table has no row for it"
    if not patient:
        return "no_patient_id", "the patient's identifier is empty"
    return seen.judge(record, patient)


def _one_image_a_row(labels: Iterable[int], source: SourceData) -> None:
    seen: set[int] = set()
    for label in labels if not source.match_accession else ():
        if label in seen:
            row = source.labels.rows[label] + 2
            raise UserError(
                f"{source.table}: row {row} fits several different images, as its name stands in several folders or "
                "with several extensions. Give paths relative to the images folder, or SOP Instance UIDs."
            )
        seen.add(label)


def manifest_parts(
    kept: Kept,
    records: Sequence[Record],
    source: SourceData,
    vocabulary: Vocabulary,
    *,
    salt: bytes,
    site: str,
    fractions: tuple[float, float, float],
    seed: int,
    settings_hash: str,
    size: int,
    shift_dates: bool = False,
) -> Iterator[pd.DataFrame]:
    """Manifest rows of the kept images, keyed, split, and with the place of their pixels, some thousand at a time."""
    if source.splits:
        splits = np.array([source.splits[source.labels.keys[label]] for label in kept.labels.tolist()])
    else:
        pairs = zip(kept.positions.tolist(), kept.labels.tolist(), strict=True)
        whose = [intern(patient_of(records[position], label, source)) for position, label in pairs]
        splits = assign_splits(whose, source.labels.labels[kept.labels], fractions, seed)
        del whose
    a_shard = rows_per_shard(size)
    for start in range(0, max(1, len(kept)), _ROWS_A_PART):
        part = slice(start, start + _ROWS_A_PART)
        frame = _rows(kept, part, records, source, salt, shift_dates=shift_dates)
        labels = kept.labels[part]
        values = source.labels.labels[labels]
        for column, name in enumerate(vocabulary.findings):
            frame[f"{LABEL}{name}"] = values[:, column]
        frame[f"{LABEL}{NO_FINDING}"] = source.labels.no_finding[labels]
        for name, texts in source.labels.raw.items():
            frame[f"{RAW}{name}"] = [texts[label] for label in labels.tolist()]
        places = start + np.arange(len(labels))
        yield frame.assign(
            split=splits[part], shard=places // a_shard, row=places % a_shard, site=site, settings_hash=settings_hash
        )


def _rows(
    kept: Kept, part: slice, records: Sequence[Record], source: SourceData, salt: bytes, *, shift_dates: bool
) -> pd.DataFrame:
    """Columns of what the files gave."""
    columns: dict[str, list[object]] = {}
    chosen = (kept.positions[part].tolist(), kept.labels[part].tolist(), kept.samples[part].tolist())
    for position, label, sample in zip(*chosen, strict=True):
        record = records[position]
        patient = keyed_hash(salt, "patient", patient_of(record, label, source))
        row = {"sample_id": sample.decode(), "patient_key": patient, **_facts(record, label, source, salt)}
        if shift_dates:
            row["study_date_shifted"] = shifted_date(salt, patient, record.identity.study_date)
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def _facts(record: Record, label: int, source: SourceData, salt: bytes) -> dict[str, object]:
    facts, identity = record.facts, record.identity
    if facts is None:
        raise ValueError("a kept image has facts")
    if source.kind == "picture":
        facts = facts_of_table(facts, source.extra.get(source.labels.keys[label], {}))
    study = identity.study_uid or identity.sop_uid or record.source_sha256
    return {
        "study_key": keyed_hash(salt, "study", study),
        "source_sha256": record.source_sha256,
        "pixel_sha256": record.pixel_sha256,
        "pad_box": record.pad_box,
        **{f.name: getattr(facts, f.name) for f in fields(facts)},
    }


def write_quarantine(store: Path, records: Sequence[Record]) -> None:
    """Write ``quarantine.csv``: hash, outcome and remedy of every file that was not kept, and nothing else.

    Withdrawn ones are counted in ``prepare.json`` only.
    """
    rejected = sorted((r.source_sha256, r.outcome) for r in records if r.outcome not in ("ok", "withdrawn"))
    lines = ["source_sha256,outcome,remedy"]
    lines += [f'{digest},{outcome},"{REMEDIES[outcome]}"' for digest, outcome in rejected]
    stores.write_atomic(store / stores.QUARANTINE, ("\n".join(lines) + "\n").encode())


def positives_by_split(table: pa.Table, vocabulary: Vocabulary) -> Mapping[str, Mapping[str, int]]:
    """Positives of each finding in each split, of a table with the manifest's columns."""
    splits = {split: pc.equal(table["split"], split) for split in SPLITS}
    return {
        name: {
            split: int(pc.sum(pc.and_(here, pc.equal(table[f"{LABEL}{name}"], 1))).as_py() or 0)
            for split, here in splits.items()
        }
        for name in vocabulary.findings
    }
