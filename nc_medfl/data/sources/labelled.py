"""A source's label table, read by its map: the common way of all sources."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from nc_medfl.data.sources.choices import LabelChoices
from nc_medfl.data.sources.registry import get_source
from nc_medfl.errors import UserError
from nc_medfl.labels import (
    HarmonisedLabels,
    LabelMap,
    Preview,
    Vocabulary,
    check_table,
    harmonise,
    infer_label_map,
    load_label_map,
    preview,
    published_map,
    read_states,
    resolve,
)


@dataclass(frozen=True)
class LabelTable:
    """A label table and what became of it.

    Attributes:
        rows: the table, one row an image (or several that are merged).
        label_map: how it is read, with the command line's choices put in.
        labels: what came of it.
        preview: the same in counts.
    """

    rows: pd.DataFrame
    label_map: LabelMap
    labels: HarmonisedLabels
    preview: Preview


def read_labels(choices: LabelChoices, vocabulary: Vocabulary) -> LabelTable:
    """Read a source's label table.

    Raises:
        UserError: if the table or the map can't be used, or the table holds what the map doesn't know.
    """
    rows, label_map = _opened(choices, vocabulary)
    labels = harmonise(rows, label_map, vocabulary, where=choices.table.name)
    return LabelTable(rows, label_map, labels, preview(rows, label_map, vocabulary, labels))


def preview_labels(choices: LabelChoices, vocabulary: Vocabulary) -> Preview:
    """What a map does to a table; values and names that it doesn't know are counted, and unknown.

    Raises:
        UserError: if the table or the map can't be used.
    """
    rows, label_map = _opened(choices, vocabulary)
    check_table(rows, label_map, vocabulary, choices.table.name)
    reading = read_states(rows, label_map, vocabulary)
    labels = resolve(rows, label_map, vocabulary, reading)
    return preview(rows, label_map, vocabulary, labels, reading.strange)


def _opened(choices: LabelChoices, vocabulary: Vocabulary) -> tuple[pd.DataFrame, LabelMap]:
    choices.check()
    rows = get_source(choices.source).table(choices)
    return rows, _with_choices(_map_of(choices, vocabulary, rows), choices)


def _map_of(choices: LabelChoices, vocabulary: Vocabulary, rows: pd.DataFrame) -> LabelMap:
    if choices.label_map is not None:
        return load_label_map(choices.label_map)
    source = get_source(choices.source)
    if source.label_map is not None:
        return load_label_map(source.label_map)
    if source.published:
        return published_map(choices.source, vocabulary.name)
    found = infer_label_map(rows, vocabulary, where=choices.table.name, named=choices.named)
    if source.kind == "picture" and found.patient_column is None:
        raise UserError(
            f"{choices.table.name}: pictures don't say whose they are. Name the column of the patient with "
            "--patient-column (the image's own column, if every image is of another patient)."
        )
    return found


def _with_choices(label_map: LabelMap, choices: LabelChoices) -> LabelMap:
    named = choices.named
    changes = {"image_column": named.image, "patient_column": named.patient, "image_key": named.key}
    changed = label_map.model_copy(update={key: value for key, value in changes.items() if value is not None})
    return changed.with_policies(choices.uncertain, choices.blank)
