"""From a source's label table to one label matrix: 1 present, 0 absent, NaN unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.labels.label_map import Delimited, LabelMap, canonical, check_vocabulary, suggest
from nc_medfl.labels.vocabulary import NO_FINDING, Vocabulary

Labels = npt.NDArray[np.float32]

_UNCERTAIN = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}
_BLANK = {"unknown": np.nan, "negative": 0.0}


@dataclass(frozen=True)
class HarmonisedLabels:
    """Labels of a table, one entry an image, in the table's order.

    Attributes:
        keys: image keys as the table gives them, stripped, unique.
        labels: float32 ``[N, C]`` in the order of the vocabulary, NaN for unknown.
        no_finding: float32 ``[N]``, consistent with ``labels``.
        raw: what the source said, by finding, ``[N]`` texts each; findings without a column are left out.
        patients: patient identifiers, or None where the map names no column.
        rows: the table's row of each entry, counted from 0 without the header.
        merged: rows left out because they repeat another.
        contradictory: images for which the source says No Finding and a finding; the finding counts.
    """

    keys: tuple[str, ...]
    labels: Labels
    no_finding: Labels
    raw: dict[str, tuple[str, ...]]
    patients: tuple[str, ...] | None
    rows: tuple[int, ...]
    merged: int
    contradictory: int


def harmonise(
    table: pd.DataFrame, label_map: LabelMap, vocabulary: Vocabulary, *, where: str = "labels.csv"
) -> HarmonisedLabels:
    """Read a label table by its map.

    A finding without a column is unknown for every image. ``No Finding`` is 0 where a finding is present; else
    what the source says of it; else 1 where all findings are known to be absent; else unknown.

    Args:
        table: texts, one row an image.
        label_map: how to read it.
        vocabulary: the findings wanted.
        where: what to call the table in errors.

    Raises:
        UserError: for a missing column, a value or finding the map doesn't know, a finding the vocabulary
            doesn't know, an empty image key, or two rows about one image that disagree.
    """
    check_vocabulary(label_map, vocabulary, f"label map '{label_map.name}'")
    _need(table, label_map.image_column, where, " Name it with --image-column.")
    if label_map.patient_column is not None:
        _need(table, label_map.patient_column, where, " Mend 'patient_column' in the label map.")
    keys = table[label_map.image_column].astype(str).str.strip()
    if (keys == "").any():
        row = int(np.flatnonzero(keys == "")[0])
        raise UserError(f"{where}: row {row + 2} has an empty '{label_map.image_column}'. Fill it or delete the row.")
    columns, raw = (
        _from_wide(table, label_map, where)
        if label_map.delimited is None
        else _from_delimited(table, label_map.delimited, label_map, vocabulary, where)
    )
    unknown = np.full(len(table), np.nan, dtype=np.float32)
    labels = np.stack([columns.get(name, unknown) for name in vocabulary.findings], axis=1)
    no_finding, contradictory = _consistent(labels, columns.get(NO_FINDING, unknown))
    patients = None if label_map.patient_column is None else table[label_map.patient_column].astype(str).str.strip()
    kept = _one_row_an_image(keys, labels, no_finding, patients, where)
    return HarmonisedLabels(
        keys=tuple(keys.iloc[kept]),
        labels=labels[kept],
        no_finding=no_finding[kept],
        raw={name: tuple(np.asarray(texts, dtype=object)[kept]) for name, texts in raw.items()},
        patients=None if patients is None else tuple(patients.iloc[kept]),
        rows=tuple(int(row) for row in kept),
        merged=len(table) - len(kept),
        contradictory=int(contradictory[kept].sum()),
    )


def _need(table: pd.DataFrame, column: str, where: str, remedy: str) -> None:
    if column not in table:
        has = ", ".join(str(name) for name in table.columns)
        raise UserError(f"{where}: no column '{column}' (it has: {has}).{remedy}")


def _from_wide(table: pd.DataFrame, label_map: LabelMap, where: str) -> tuple[dict[str, Labels], dict[str, list[str]]]:
    columns: dict[str, Labels] = {}
    raw: dict[str, list[str]] = {}
    for source, finding in (label_map.findings or {}).items():
        _need(table, source, where, " Mend 'findings' in the label map, or the table.")
        values = _numbers_of(table[source], label_map, where)
        texts = [str(text).strip() for text in table[source]]
        if finding in columns:
            columns[finding] = _either(columns[finding], values)
            texts = [f"{a}|{b}" for a, b in zip(raw[finding], texts, strict=True)]
        else:
            columns[finding] = values
        raw[finding] = texts
    return columns, raw


def _numbers_of(column: pd.Series, label_map: LabelMap, where: str) -> Labels:
    """A finding's column as 1, 0 or NaN."""
    number = {
        "positive": 1.0,
        "negative": 0.0,
        "uncertain": _UNCERTAIN[label_map.uncertain],
        "unknown": np.nan,
    }
    known = {value: number[state] for value, state in label_map.values.state_of().items()}
    known.setdefault("", _BLANK[label_map.blank])
    meaning = {text: known.get(canonical(text)) for text in column.unique()}
    wrong = [text for text, found in meaning.items() if found is None]
    if wrong:
        row = int(np.flatnonzero(column == wrong[0])[0])
        listed = ", ".join(f"'{str(text)[:16]}'" for text in wrong[:5])
        raise UserError(
            f"{where}: column '{column.name}' holds {listed} (row {row + 2}), whose meaning is not given. "
            "List it under 'values' in a label map (--label-map): positive, negative, uncertain or unknown."
        )
    return np.array([meaning[text] for text in column], dtype=np.float32)


def _either(first: Labels, second: Labels) -> Labels:
    """Two columns of one finding: present if either is, unknown if either is, else absent."""
    present = (first == 1) | (second == 1)
    unknown = np.isnan(first) | np.isnan(second)
    return np.where(present, 1.0, np.where(unknown, np.nan, 0.0)).astype(np.float32)


def _from_delimited(
    table: pd.DataFrame, delimited: Delimited, label_map: LabelMap, vocabulary: Vocabulary, where: str
) -> tuple[dict[str, Labels], dict[str, list[str]]]:
    _need(table, delimited.column, where, " Mend 'delimited' in the label map, or the table.")
    cells = [
        [part for part in (p.strip() for p in str(cell).split(delimited.separator)) if part]
        for cell in table[delimited.column]
    ]
    names = {source.casefold(): finding for source, finding in delimited.names.items()}
    normal = (delimited.normal or "").casefold()
    wrong = sorted({part for cell in cells for part in cell if part.casefold() not in names} - {delimited.normal})
    wrong = [part for part in wrong if part.casefold() != normal]
    if wrong:
        raise UserError(
            f"{where}: column '{delimited.column}' lists what the label map doesn't know: "
            f"{suggest([part[:40] for part in wrong[:8]], list(delimited.names))}. "
            "Add it under 'delimited: names' in a label map (--label-map), or mend the table."
        )
    found = [{names.get(part.casefold(), NO_FINDING) for part in cell} for cell in cells]
    blank = np.array([not cell for cell in cells])
    columns: dict[str, Labels] = {}
    raw: dict[str, list[str]] = {}
    mapped = set(names.values())
    for finding in (*vocabulary.findings, NO_FINDING):
        if finding not in mapped and finding != NO_FINDING:
            continue
        present = np.array([finding in cell for cell in found], dtype=np.float32)
        columns[finding] = np.where(blank, np.float32(_BLANK[label_map.blank]), present)
        raw[finding] = ["" if empty else "1" if here else "0" for empty, here in zip(blank, present, strict=True)]
    # An absent 'No Finding' is no statement: the findings tell.
    stated = columns[NO_FINDING] == 1
    columns[NO_FINDING] = np.where(stated, 1.0, np.nan).astype(np.float32)
    return columns, raw


def _consistent(labels: Labels, stated: Labels) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """``No Finding`` that agrees with the findings, and where the source contradicted itself."""
    present = (labels == 1).any(axis=1)
    clear = (labels == 0).all(axis=1)
    told = np.where(np.isnan(stated), np.where(clear, 1.0, np.nan), stated)
    return np.where(present, 0.0, told).astype(np.float32), present & (stated == 1)


def _one_row_an_image(
    keys: pd.Series, labels: Labels, no_finding: Labels, patients: pd.Series | None, where: str
) -> npt.NDArray[np.int64]:
    """Positions of the first row of each image, once repeated rows are known to agree."""
    again = keys.duplicated().to_numpy(dtype=bool)
    positions, repeated = np.flatnonzero(~again), np.flatnonzero(again)
    place = dict(zip(keys.iloc[positions], positions, strict=True))
    for row in repeated:
        other = int(place[keys.iloc[row]])
        same = np.array_equal(labels[row], labels[other], equal_nan=True)
        same = same and np.array_equal(no_finding[[row]], no_finding[[other]], equal_nan=True)
        if not same or (patients is not None and patients.iloc[row] != patients.iloc[other]):
            raise UserError(
                f"{where}: rows {other + 2} and {row + 2} are about one image and disagree "
                f"({len(repeated)} repeated rows in all). Keep one of them."
            )
    return positions
