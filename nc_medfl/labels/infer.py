"""A label map for a table that comes without one, from names that speak for themselves."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.labels.label_map import Delimited, ImageKey, LabelMap, canonical, suggest
from nc_medfl.labels.vocabulary import NO_FINDING, Vocabulary

#: Names of the column that says which image a row is about, most telling first; compared by :func:`_folded`.
_IMAGE_NAMES = (
    *("imageindex", "sopinstanceuid", "sopuid", "file", "filename", "filepath", "imagefile", "imagefilename"),
    *("imagepath", "path", "dicom", "dicomfile", "dicomid", "dcm", "image", "imageid", "imagename"),
)
_UID_NAMES = frozenset({"sopinstanceuid", "sopuid"})
_DELIMITED_NAMES = ("findinglabels", "findings", "labels")
#: Columns that often hold 0 and 1 and are no finding.
_OTHER_NAMES = frozenset(
    {
        *(
            "age",
            "patientage",
            "sex",
            "gender",
            "patientsex",
            "patientgender",
            "view",
            "viewposition",
            "frontallateral",
        ),
        *("appa", "patient", "patientid", "subject", "subjectid", "study", "studyid", "accession", "followup"),
        *("split", "fold", "site", "hospital", "width", "height", "rows", "columns", "id", "index", "row"),
        *("seriesnumber", "instancenumber", "portable", "inpatient", "burnedin", "lossy"),
    }
)
_YES_OR_NO = frozenset({"0", "1", "true", "false", "yes", "no", "y", "n", "positive", "negative", "pos", "neg"})
_LABEL_LIKE = _YES_OR_NO | {"-1", ""}


def infer_label_map(
    table: pd.DataFrame,
    vocabulary: Vocabulary,
    *,
    where: str = "labels.csv",
    image_column: str | None = None,
    ignore_columns: Sequence[str] = (),
) -> LabelMap:
    """Work out a label map from a table's column names.

    Findings are columns named like the vocabulary's (case, spaces and underscores don't matter), or one column
    such as ``Finding Labels`` that lists them.

    Args:
        table: texts, one row an image.
        vocabulary: the findings wanted.
        where: what to call the table in errors.
        image_column: its image column, if it has no conventional name.
        ignore_columns: columns known to be no findings.

    Raises:
        UserError: if there is no image column or no finding, or a column looks like a finding that the
            vocabulary doesn't have.
    """
    folded = {_folded(str(name)): str(name) for name in reversed(list(table.columns))}
    absent = [name for name in ignore_columns if name not in table]
    if absent:
        raise UserError(f"{where}: --ignore-column {absent[0]}: no such column ({_has(table)}).")
    image = image_column or next((folded[name] for name in _IMAGE_NAMES if name in folded), None)
    if image is None or image not in table:
        raise UserError(f"{where}: no column '{image or 'Image Index'}' ({_has(table)}). Name it with --image-column.")
    key: ImageKey = "sop_instance_uid" if _folded(image) in _UID_NAMES else "filename"
    wanted = {_folded(name): name for name in (*vocabulary.findings, NO_FINDING)}
    columns = {str(name): wanted[_folded(str(name))] for name in table.columns if _folded(str(name)) in wanted}
    columns = {name: finding for name, finding in columns.items() if name not in ignore_columns}
    common = {"name": "inferred", "vocabulary": vocabulary.name, "image_column": image, "image_key": key}
    if set(columns.values()) - {NO_FINDING}:
        _no_stray_finding(table, {*columns, image, *ignore_columns}, vocabulary, where)
        return LabelMap.model_validate({**common, "findings": columns, "ignore_columns": list(ignore_columns)})
    listed = next((folded[name] for name in _DELIMITED_NAMES if name in folded), None)
    if listed is None:
        raise UserError(
            f"{where}: no column is named like a finding of '{vocabulary.name}' and there is no 'Finding Labels' "
            f"({_has(table)}). Say what its columns mean with --label-map."
        )
    return LabelMap.model_validate({**common, "delimited": _delimited(listed, vocabulary)})


def _delimited(column: str, vocabulary: Vocabulary) -> Delimited:
    spellings = {spelling: name for name in vocabulary.findings for spelling in (name, name.replace("_", " "))}
    return Delimited(column=column, names=spellings)


def _no_stray_finding(table: pd.DataFrame, known: set[str], vocabulary: Vocabulary, where: str) -> None:
    """Refuse a column of 0, 1, -1, yes, no and the like that nobody accounted for."""
    for name in map(str, table.columns):
        if name in known or _folded(name) in _OTHER_NAMES:
            continue
        values = {canonical(text) for text in table[name].unique()}
        if values <= _LABEL_LIKE and values & _YES_OR_NO:
            raise UserError(
                f"{where}: column {suggest([name], vocabulary.findings)} looks like a finding that vocabulary "
                f"'{vocabulary.name}' doesn't have. Map it with --label-map, or leave it out with "
                f"--ignore-column '{name}'."
            )


def _folded(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _has(table: pd.DataFrame) -> str:
    return f"it has: {', '.join(map(str, table.columns))}"
