"""A folder of DICOM files, whatever they are called, with a CSV of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nc_medfl.data.sources.base import SourceData, list_files, read_table
from nc_medfl.labels import LabelMap, Vocabulary, harmonise, infer_label_map, load_label_map
from nc_medfl.labels.label_map import Uncertain


def open_dicom(
    images: Path,
    table: Path,
    vocabulary: Vocabulary,
    *,
    label_map: Path | str | None = None,
    image_column: str | None = None,
    ignore_columns: Sequence[str] = (),
    uncertain: Uncertain | None = None,
) -> SourceData:
    """Open a DICOM folder and its label table.

    Args:
        images: the folder; every file below it is tried.
        table: the label CSV.
        vocabulary: the findings wanted.
        label_map: how to read the table; inferred from its column names if None.
        image_column: overrides the column that names the image.
        ignore_columns: columns that are no findings.
        uncertain: overrides what becomes of uncertain labels.

    Raises:
        UserError: if the folder, the table or the map can't be used.
    """
    rows = read_table(table)
    if label_map is None:
        chosen = infer_label_map(
            rows, vocabulary, where=table.name, image_column=image_column, ignore_columns=ignore_columns
        )
    else:
        chosen = load_label_map(label_map)
    chosen = override(chosen, image_column, uncertain)
    return SourceData(
        kind="dicom",
        files=list_files(images),
        labels=harmonise(rows, chosen, vocabulary, where=table.name),
        label_map=f"{chosen.name} {chosen.version}",
        uncertain=chosen.uncertain,
        table=table.name,
        match_name=chosen.image_key == "filename",
    )


def override(label_map: LabelMap, image_column: str | None, uncertain: Uncertain | None) -> LabelMap:
    """A map with the command line's choices put in."""
    changes = {"image_column": image_column, "uncertain": uncertain}
    return label_map.model_copy(update={key: value for key, value in changes.items() if value is not None})
