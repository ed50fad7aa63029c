"""What a label table says, before any policy: one state a finding and image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.labels.label_map import Delimited, LabelMap, Uncertain, canonical, nearest, uncertain_policy
from nc_medfl.labels.vocabulary import NO_FINDING, Vocabulary

States = npt.NDArray[np.int8]

#: Not said by an empty cell (a policy decides); said to be unknown, or nobody looked; two rows that disagree.
NEGATIVE, POSITIVE, UNCERTAIN, BLANK, UNKNOWN, CONFLICT = range(6)
_CODES = {"negative": NEGATIVE, "positive": POSITIVE, "uncertain": UNCERTAIN, "unknown": UNKNOWN}
#: A value or name is shown if it is a mere code, or stands so often that it is nobody's name.
_SHORT, _OFTEN = 3, 5


@dataclass(frozen=True)
class Strange:
    """A value or listed name that the map doesn't know.

    Attributes:
        column: where it stands.
        text: as it stands there; may be anybody's name, so it is shown through :func:`shown` only.
        count: rows with it.
        row: the first of them, counted from 0 without the header.
    """

    column: str
    text: str
    count: int
    row: int


@dataclass(frozen=True)
class Reading:
    """A table, read by its map.

    Attributes:
        states: int8 ``[N, C]`` in the order of the vocabulary.
        normal: int8 ``[N]``, what the source says of ``No Finding``.
        other: bool ``[N]``, whether it says that something is there which the map leaves out.
        beside: bool ``[C]``, findings that the source allows beside ``No Finding``.
        raw: what the source said, by finding, ``[N]`` texts each.
        left_out: rows with each finding that the map leaves out.
        strange: values and names that the map doesn't know; their state is unknown.
    """

    states: States
    normal: States
    other: npt.NDArray[np.bool_]
    beside: npt.NDArray[np.bool_]
    raw: dict[str, list[str]]
    left_out: dict[str, int]
    strange: tuple[Strange, ...]


@dataclass
class _Columns:
    states: dict[str, States] = field(default_factory=dict)
    raw: dict[str, list[str]] = field(default_factory=dict)
    other: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    strange: list[Strange] = field(default_factory=list)

    def add(self, finding: str, states: States, texts: list[str], uncertain: Uncertain = "ignore") -> None:
        """Put a column to a finding; several are read together."""
        if finding in self.states:
            states = either(self.states[finding], states, uncertain)
            texts = [f"{a}|{b}" for a, b in zip(self.raw[finding], texts, strict=True)]
        self.states[finding], self.raw[finding] = states, texts


def read_states(table: pd.DataFrame, label_map: LabelMap, vocabulary: Vocabulary) -> Reading:
    """Read a table whose columns are known to be there (see :func:`missing_columns`).

    Args:
        table: texts, one row an image.
        label_map: how to read it.
        vocabulary: the findings wanted; those without a column are unknown.
    """
    if label_map.delimited is None:
        columns = _from_wide(table, label_map)
    else:
        columns = _from_delimited(table, label_map.delimited, label_map, vocabulary)
    nothing = np.full(len(table), UNKNOWN, dtype=np.int8)
    states = np.stack([columns.states.get(name, nothing) for name in vocabulary.findings], axis=1)
    return Reading(
        states=states,
        normal=columns.states.get(NO_FINDING, nothing),
        other=np.any(columns.other, axis=0) if columns.other else np.zeros(len(table), dtype=np.bool_),
        beside=np.array([name in label_map.beside_no_finding for name in vocabulary.findings]),
        raw=columns.raw,
        left_out=columns.left_out,
        strange=tuple(columns.strange),
    )


def missing_columns(table: pd.DataFrame, label_map: LabelMap) -> list[str]:
    """Columns of findings that the map needs and the table lacks."""
    if label_map.delimited is not None:
        needed: Iterable[str] = [label_map.delimited.column]
    else:
        needed = [*(label_map.findings or {}), *label_map.one_of]
    return [name for name in needed if name not in table and name not in label_map.optional]


def either(first: States, second: States, uncertain: Uncertain) -> States:
    """Two columns of one finding: present if either is; absent if both are; else the less certain of the two.

    Where one is uncertain and the other silent, the uncertain one is the less certain unless it is to count as
    absent, so that no silence ever becomes an absence.
    """
    together: States = np.maximum(first, second)
    if uncertain != "zeros":
        together[(first == UNCERTAIN) | (second == UNCERTAIN)] = UNCERTAIN
    together[(first == POSITIVE) | (second == POSITIVE)] = POSITIVE
    return together


def agreed(first: int, second: int) -> int:
    """Two rows about one image: what one leaves open the other tells; what they tell differently is a conflict."""
    if first == second:
        return first
    low, high = sorted((first, second))
    if high in (BLANK, UNKNOWN):
        return UNKNOWN if low == BLANK else low
    return CONFLICT


def shown(strange: Strange, known: Sequence[str] = ()) -> bool:
    """Whether a value that the map doesn't know may be shown: it may be a patient's name in a wrong column."""
    often = strange.count >= _OFTEN and len(strange.text) <= 60 and not any(c.isdigit() for c in strange.text)
    plain = strange.text.isprintable()
    return plain and (len(strange.text) <= _SHORT or often or bool(known and nearest(strange.text, known)))


def _from_wide(table: pd.DataFrame, label_map: LabelMap) -> _Columns:
    columns = _Columns()
    for source, finding in (label_map.findings or {}).items():
        if source in table:
            states, texts = _states_of(table, source, label_map, columns.strange), _stripped(table[source])
            columns.add(finding, states, texts, uncertain_policy(label_map, finding))
    for source, findings in label_map.one_of.items():
        if source in table:
            states, texts = _states_of(table, source, label_map, columns.strange), _stripped(table[source])
            # Present says that one of them is there, and not which: unknown, whatever the policy of uncertain labels.
            open_ = np.where(states == POSITIVE, UNKNOWN, states).astype(np.int8)
            columns.other.append(states == POSITIVE)
            for finding in findings:
                columns.add(finding, open_, texts, uncertain_policy(label_map, finding))
    for source in label_map.left_out:
        if source in table:
            here = _states_of(table, source, label_map, None) == POSITIVE
            columns.left_out[source] = int(here.sum())
            if source not in label_map.beside_no_finding:
                columns.other.append(here)
    return columns


def _stripped(column: pd.Series) -> list[str]:
    return [str(text).strip() for text in column]


def _states_of(table: pd.DataFrame, name: str, label_map: LabelMap, strange: list[Strange] | None) -> States:
    """A finding's column as states; texts of no known meaning are added to ``strange``."""
    known = {value: _CODES[state] for value, state in label_map.values.state_of().items()}
    known.setdefault("", BLANK)
    column = table[name]
    counts = column.value_counts()
    meaning = {text: known.get(canonical(text)) for text in counts.index}
    if strange is not None:
        wrong = [text for text, found in meaning.items() if found is None]
        strange += [
            Strange(name, str(text), int(counts[text]), int(np.flatnonzero(column == text)[0])) for text in wrong
        ]
    codes = {text: UNKNOWN if found is None else found for text, found in meaning.items()}
    return column.map(codes).to_numpy(dtype=np.int8)


def _from_delimited(table: pd.DataFrame, delimited: Delimited, label_map: LabelMap, vocabulary: Vocabulary) -> _Columns:
    reader = _Lister(delimited, label_map)
    at, cells = pd.factorize(table[delimited.column])
    read = [reader.read(str(cell)) for cell in cells]
    columns = _Columns()
    mapped = set(label_map.targets())
    for finding in vocabulary.findings:
        if finding in mapped:
            states = np.array([_listed(finding, cell) for cell in read], dtype=np.int8)[at]
            texts = [("0", "1", "", "", "", "")[state] for state in states]
            columns.add(finding, states, texts)
    # An absent 'No Finding' is no statement: the findings tell.
    normal = np.array([POSITIVE if cell.normal else BLANK for cell in read], dtype=np.int8)[at]
    columns.add(NO_FINDING, normal, ["1" if state == POSITIVE else "" for state in normal])
    columns.other.append(np.array([cell.other for cell in read])[at])
    rows = np.bincount(at, minlength=len(cells))
    for cell, count in zip(read, rows, strict=True):
        for name in cell.left_out:
            columns.left_out[name] = columns.left_out.get(name, 0) + int(count)
    columns.strange += _strangers(read, at, delimited.column)
    return columns


@dataclass(frozen=True)
class _Cell:
    findings: frozenset[str]
    normal: bool
    empty: bool
    unstated: bool
    other: bool
    left_out: tuple[str, ...]
    strange: tuple[str, ...]


def _listed(finding: str, cell: _Cell) -> int:
    if finding in cell.findings:
        return POSITIVE
    return UNKNOWN if cell.unstated or cell.strange else BLANK if cell.empty else NEGATIVE


class _Lister:
    """Reads one cell that lists findings."""

    def __init__(self, delimited: Delimited, label_map: LabelMap) -> None:
        self._separator = delimited.separator
        self._names: Mapping[str, tuple[str, ...]] = {n.casefold(): f for n, f in delimited.names.items()}
        self._normal = (delimited.normal or "").casefold()
        self._unstated = {name.casefold() for name in delimited.unstated}
        self._left_out = {name.casefold() for name in label_map.left_out}
        self._beside = {name.casefold() for name in label_map.beside_no_finding}
        self._lenient = delimited.others == "leave_out"

    def read(self, text: str) -> _Cell:
        parts = dict.fromkeys(part for part in (p.strip() for p in text.split(self._separator)) if part)
        folded = {part: part.casefold() for part in parts}
        found = frozenset(finding for part in parts for finding in self._names.get(folded[part], ()))
        rest = [p for p in parts if folded[p] not in self._names and folded[p] not in {self._normal, *self._unstated}]
        known = [part for part in rest if self._lenient or folded[part] in self._left_out]
        return _Cell(
            findings=found - {NO_FINDING},
            normal=NO_FINDING in found or any(name == self._normal for name in folded.values()),
            empty=not parts,
            unstated=any(name in self._unstated for name in folded.values()),
            other=any(folded[part] not in self._beside for part in known),
            left_out=tuple(known),
            strange=tuple(part for part in rest if part not in known),
        )


def _strangers(read: Sequence[_Cell], at: npt.NDArray[np.int64], column: str) -> list[Strange]:
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    odd = [number for number, cell in enumerate(read) if cell.strange]
    for number in odd:
        rows = np.flatnonzero(at == number)
        for part in read[number].strange:
            counts[part] += len(rows)
            first[part] = min(first.get(part, int(rows[0])), int(rows[0]))
    return [Strange(column, part, count, first[part]) for part, count in sorted(counts.items())]
