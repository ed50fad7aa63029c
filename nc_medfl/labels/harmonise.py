"""From a source's label table to one label matrix: 1 present, 0 absent, NaN unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from sys import intern

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.labels.columns import columns_told, whole_number
from nc_medfl.labels.label_map import LabelMap, blank_policy, check_vocabulary, nearest, uncertain_policy
from nc_medfl.labels.states import (
    CONFLICT,
    Reading,
    States,
    Strange,
    agreed,
    missing_columns,
    read_states,
    shown,
)
from nc_medfl.labels.vocabulary import Vocabulary

Labels = npt.NDArray[np.float32]

_UNCERTAIN = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}
_BLANK = {"unknown": np.nan, "negative": 0.0}


@dataclass(frozen=True)
class HarmonisedLabels:
    """Labels of a table, one entry an image, in the table's order.

    Of rows about one image, what one leaves open another tells; a finding that they tell differently becomes
    unknown. If they name different patients, the patient becomes empty, and the image can't be used.

    Attributes:
        keys: image keys as the table gives them, stripped, unique.
        labels: float32 ``[N, C]`` in the order of the vocabulary, NaN for unknown.
        no_finding: float32 ``[N]``, consistent with ``labels``.
        raw: what the source said, by finding, ``[N]`` texts each; findings without a column are left out.
        patients: patient identifiers, or None where the map names no column.
        rows: the table's row of each entry, counted from 0 without the header.
        merged: rows merged into an earlier one about the same image.
        contradictory: images for which the source says No Finding and a finding; the finding counts.
        disagreeing: images about which rows disagree in a finding.
        patient_conflicts: images about which rows name different patients.
        reading: what the entries say before any policy, and ``values`` what each state becomes, ``[C, 6]``.
    """

    keys: tuple[str, ...]
    labels: Labels
    no_finding: Labels
    raw: dict[str, tuple[str, ...]]
    patients: tuple[str, ...] | None
    rows: Sequence[int]
    merged: int
    contradictory: int
    disagreeing: int
    patient_conflicts: int
    reading: Reading = field(repr=False)
    values: Labels = field(repr=False)

    def merged_with(self, pairs: Sequence[tuple[int, int]]) -> HarmonisedLabels:
        """The labels once entries are known to be about one image, though they spell its key differently.

        Args:
            pairs: positions (kept, other); both stay, and the first gets what the two say together.
        """
        merge = _Merge(self.reading, self.raw, self.patients)
        for first, other in pairs:
            merge.row(first, other)
        return _labelled(
            replace(
                self,
                patients=merge.patients,
                raw=merge.raw_texts(),
                merged=self.merged + len({other for _, other in pairs}),
                patient_conflicts=self.patient_conflicts + len(merge.torn),
            ),
            merge.reading(),
        )


def harmonise(
    table: pd.DataFrame, label_map: LabelMap, vocabulary: Vocabulary, *, where: str = "labels.csv"
) -> HarmonisedLabels:
    """Read a label table by its map.

    A finding without a column is unknown for every image. ``No Finding`` is 0 where a finding is present; else
    what the source says of it; else 0 where something is present that the map leaves out; else 1 where all
    findings are known to be absent; else unknown.

    Args:
        table: texts, one row an image.
        label_map: how to read it.
        vocabulary: the findings wanted.
        where: what to call the table in errors.

    Raises:
        UserError: for a missing column, a value or finding the map doesn't know, a finding the vocabulary
            doesn't know, or an empty image key.
    """
    check_table(table, label_map, vocabulary, where)
    reading = read_states(table, label_map, vocabulary)
    if reading.strange:
        raise UserError(_strange(reading.strange, label_map, where))
    return resolve(table, label_map, vocabulary, reading)


def check_table(table: pd.DataFrame, label_map: LabelMap, vocabulary: Vocabulary, where: str) -> None:
    """Make sure that a map fits a vocabulary and the columns of a table, and that each row names its image.

    Raises:
        UserError: naming the map and what doesn't fit.
    """
    by_map = f"label map '{label_map.name}'"
    check_vocabulary(label_map, vocabulary, by_map)
    _need(table, label_map.image_column, where, f"L{by_map[1:]} takes the image from it: name it with --image-column.")
    if label_map.patient_column is not None:
        remedy = f"L{by_map[1:]} takes the patient from it: name it with --patient-column."
        _need(table, label_map.patient_column, where, remedy)
    key = "findings" if label_map.delimited is None else "delimited"
    for column in missing_columns(table, label_map):
        _need(table, column, where, f"L{by_map[1:]} reads a finding from it: mend '{key}' there, or the table.")
    empty = np.flatnonzero(table[label_map.image_column].astype(str).str.strip() == "")
    if len(empty):
        raise UserError(
            f"{where}: row {int(empty[0]) + 2} has an empty '{label_map.image_column}'. Fill it or delete the row."
        )


def resolve(table: pd.DataFrame, label_map: LabelMap, vocabulary: Vocabulary, reading: Reading) -> HarmonisedLabels:
    """Labels of a table that was read: one entry an image, by the map's policies."""
    keys = table[label_map.image_column].astype(str).str.strip()
    if label_map.image_key == "accession":
        keys = keys.map(whole_number)
    named = label_map.patient_column
    patients = None if named is None else tuple(table[named].astype(str).map(whole_number))
    merge = _Merge(reading, {name: tuple(texts) for name, texts in reading.raw.items()}, patients)
    again = keys.duplicated().to_numpy(dtype=bool)
    kept = np.flatnonzero(~again)
    if again.any():
        place = dict(zip(keys.iloc[kept], kept.tolist(), strict=True))
        for row in np.flatnonzero(again).tolist():
            merge.row(place[keys.iloc[row]], row)
    policies = [
        [0.0, 1.0, _UNCERTAIN[uncertain_policy(label_map, f)], _BLANK[blank_policy(label_map, f)], np.nan, np.nan]
        for f in vocabulary.findings
    ]
    whole, whose, raw = merge.reading(), merge.patients, merge.raw_texts()
    one_each = replace(whole, states=whole.states[kept], normal=whole.normal[kept], other=whole.other[kept], raw={})
    nothing: Labels = np.empty(0, dtype=np.float32)
    return _labelled(
        HarmonisedLabels(
            keys=tuple(keys.iloc[kept]),
            labels=nothing,
            no_finding=nothing,
            raw={name: tuple(texts[row] for row in kept) for name, texts in raw.items()},
            # A patient has several images, whose texts are kept once.
            patients=None if whose is None else tuple(intern(whose[row]) for row in kept),
            rows=tuple(kept.tolist()) if again.any() else range(len(table)),
            merged=len(table) - len(kept),
            contradictory=0,
            disagreeing=0,
            patient_conflicts=len(merge.torn),
            reading=one_each,
            values=np.array(policies, dtype=np.float32),
        ),
        one_each,
    )


def _labelled(entries: HarmonisedLabels, reading: Reading) -> HarmonisedLabels:
    """Labels from what was read, by the policies."""
    columns = np.arange(reading.states.shape[1])
    labels = entries.values[columns, reading.states]
    stated = np.array([0.0, 1.0, np.nan, np.nan, np.nan, np.nan], dtype=np.float32)[reading.normal]
    present = ((labels == 1) & ~reading.beside).any(axis=1)
    clear = (labels == 0).all(axis=1)
    told = np.where(np.isnan(stated), np.where(reading.other, 0.0, np.where(clear, 1.0, np.nan)), stated)
    torn = (reading.states == CONFLICT).any(axis=1) | (reading.normal == CONFLICT)
    told = np.where(torn & (told == 1), np.nan, told)
    return replace(
        entries,
        labels=labels,
        no_finding=np.where(present, 0.0, told).astype(np.float32),
        contradictory=int((present & (stated == 1)).sum()),
        disagreeing=int(torn.sum()),
        reading=reading,
    )


class _Merge:
    """Rows about one image, put together in the first of them."""

    def __init__(self, reading: Reading, raw: dict[str, tuple[str, ...]], patients: tuple[str, ...] | None) -> None:
        self._reading = reading
        self._states: States = reading.states.copy()
        self._normal: States = reading.normal.copy()
        self._other = reading.other.copy()
        self._raw = raw
        self._texts: dict[str, list[str]] | None = None
        self._patients = None if patients is None else list(patients)
        self.torn: set[int] = set()

    @property
    def patients(self) -> tuple[str, ...] | None:
        """Patients, empty where rows about one image name different ones."""
        if self._patients is None:
            return None
        return tuple("" if row in self.torn else patient for row, patient in enumerate(self._patients))

    def row(self, first: int, other: int) -> None:
        """Put what another row says to the first."""
        if not np.array_equal(self._states[first], self._states[other]):
            pairs = zip(self._states[first].tolist(), self._states[other].tolist(), strict=True)
            self._states[first] = [agreed(a, b) for a, b in pairs]
        self._normal[first] = agreed(int(self._normal[first]), int(self._normal[other]))
        self._other[first] |= self._other[other]
        for texts in self._copied().values():
            if texts[other] not in texts[first].split("|"):
                texts[first] += f"|{texts[other]}"
        if self._patients is not None and self._patients[first] != self._patients[other]:
            self.torn.add(first)

    def _copied(self) -> dict[str, list[str]]:
        if self._texts is None:
            self._texts = {name: list(texts) for name, texts in self._raw.items()}
        return self._texts

    def raw_texts(self) -> dict[str, tuple[str, ...]]:
        """What the source said, with what differs between merged rows side by side."""
        return self._raw if self._texts is None else {name: tuple(texts) for name, texts in self._texts.items()}

    def reading(self) -> Reading:
        """What the rows say together."""
        return replace(self._reading, states=self._states, normal=self._normal, other=self._other)


def _need(table: pd.DataFrame, column: str, where: str, remedy: str) -> None:
    if column not in table:
        raise UserError(f"{where}: no column '{column}' ({columns_told(table.columns)}). {remedy}")


def _strange(found: Sequence[Strange], label_map: LabelMap, where: str) -> str:
    """What the map doesn't know, for a person; nothing that may be a patient's name is quoted."""
    column = found[0].column
    here = [strange for strange in found if strange.column == column]
    names = [] if label_map.delimited is None else [*label_map.delimited.names, *label_map.left_out]
    listed = []
    for strange in here[:8]:
        near = nearest(strange.text, names) if names else ""
        text = f"'{strange.text}'" if shown(strange, names) else f"a text of {len(strange.text)} characters"
        text += f" (did you mean '{near}'?)" if near else ""
        listed.append(f"{text} (row {strange.row + 2})")
    more = f" and {len(here) - 8} more" if len(here) > 8 else ""
    by_map = f"label map '{label_map.name}'"
    if label_map.delimited is None:
        return (
            f"{where}: column '{column}' holds {', '.join(listed)}{more}, whose meaning {by_map} doesn't give. "
            "List it under 'values' in a label map (--label-map): positive, negative, uncertain or unknown."
        )
    return (
        f"{where}: column '{column}' lists what {by_map} doesn't know: {', '.join(listed)}{more}. "
        "Add it under 'delimited: names' or 'left_out' in a label map (--label-map), or mend the table."
    )
