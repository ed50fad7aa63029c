"""A label map for a table that comes without one, from names that speak for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.labels.columns import columns_told
from nc_medfl.labels.label_map import Delimited, ImageKey, LabelMap, Values, canonical, suggest
from nc_medfl.labels.vocabulary import NO_FINDING, Vocabulary

#: Names of the column that says which image a row is about, most telling first; compared by :func:`_folded`.
_IMAGE_NAMES = (
    *("imageindex", "sopinstanceuid", "sopuid", "file", "filename", "filepath", "imagefile", "imagefilename"),
    *("imagepath", "path", "dicom", "dicomfile", "dicomid", "dcm", "image", "imageid", "imagename"),
    *("accessionnumber", "accession"),
)
_UID_NAMES = frozenset({"sopinstanceuid", "sopuid"})
_ACCESSION_NAMES = frozenset({"accessionnumber", "accession"})
#: NIH's own name of the patient column, in capitals or not: others may hold a number of the row or of the visit.
_NIH_PATIENT = "patient id"
_FACTS = {
    "view": ("viewposition", "view"),
    "sex": ("patientgender", "patientsex", "sex", "gender"),
    "age": ("patientage", "age"),
}
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
        *("accessionnumber", "patientnumber", "studydate"),
        *("split", "fold", "site", "hospital", "width", "height", "rows", "columns", "id", "index", "row"),
        *("seriesnumber", "instancenumber", "portable", "inpatient", "burnedin", "lossy"),
    }
)
#: What columns of findings hold, in words that can mean nothing else.
_VALUES = Values(
    positive=("1", "true", "yes", "y", "positive", "pos"),
    negative=("0", "false", "no", "n", "negative", "neg"),
)
_YES_OR_NO = frozenset({*_VALUES.positive, *_VALUES.negative})
_LABEL_LIKE = _YES_OR_NO | {"-1", ""}


@dataclass(frozen=True)
class Named:
    """What the command line says of a table's columns.

    Attributes:
        image: the column that names the image.
        patient: the column with the patient's identifier.
        labels: columns that are findings, ``COLUMN`` or ``COLUMN=FINDING``, or the one column that lists them.
        ignore: columns that are no findings.
        key: what the image column holds.
    """

    image: str | None = None
    patient: str | None = None
    labels: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    key: ImageKey | None = None


def infer_label_map(
    table: pd.DataFrame, vocabulary: Vocabulary, *, where: str = "labels.csv", named: Named | None = None
) -> LabelMap:
    """Work out a label map from a table's column names.

    Findings are columns named like the vocabulary's (case, spaces and underscores don't matter), or one column
    such as ``Finding Labels`` that lists them. The patient is taken from the table only if its column is named on
    the command line or is NIH's ``Patient ID``.

    Args:
        table: texts, one row an image.
        vocabulary: the findings wanted.
        where: what to call the table in errors.
        named: what is known of its columns.

    Raises:
        UserError: if there is no image column or no finding, or a column looks like a finding that the
            vocabulary doesn't have.
    """
    named = named or Named()
    for option, name in (*(("--ignore-column", n) for n in named.ignore), ("--patient-column", named.patient)):
        if name is not None and name not in table:
            raise UserError(f"{where}: {option} {name}: no such column ({_has(table)}).")
    folded = {_folded(str(name)): str(name) for name in reversed(list(table.columns))}
    image = named.image or next((folded[name] for name in _IMAGE_NAMES if name in folded), None)
    if image is None or image not in table:
        raise UserError(f"{where}: no column '{image or 'Image Index'}' ({_has(table)}). Name it with --image-column.")
    common = {
        "name": "inferred",
        "vocabulary": vocabulary.name,
        "image_column": image,
        "image_key": named.key or _key_of(image),
        "patient_column": named.patient
        or next((str(name) for name in table.columns if str(name).casefold() == _NIH_PATIENT), None),
        "facts": {fact: folded[n] for fact, names in _FACTS.items() for n in reversed(names) if n in folded},
        "ignore_columns": list(named.ignore),
        "values": _VALUES,
    }
    if named.labels:
        return LabelMap.model_validate({**common, **_from_named(table, vocabulary, named.labels, where)})
    wanted = {_folded(name): name for name in (*vocabulary.findings, NO_FINDING)}
    columns = {str(name): wanted[_folded(str(name))] for name in table.columns if _folded(str(name)) in wanted}
    columns = {name: finding for name, finding in columns.items() if name not in named.ignore}
    if set(columns.values()) - {NO_FINDING}:
        _no_stray_finding(table, {*columns, image, str(named.patient), *named.ignore}, vocabulary, where)
        return LabelMap.model_validate({**common, "findings": columns})
    listed = next((folded[name] for name in _DELIMITED_NAMES if name in folded), None)
    if listed is None or listed in named.ignore:
        raise UserError(
            f"{where}: no column is named like a finding of '{vocabulary.name}' and there is no 'Finding Labels' "
            f"({_has(table)}). Name them with --label-columns, or say what its columns mean with --label-map."
        )
    return LabelMap.model_validate({**common, "delimited": _delimited(listed, vocabulary)})


def _key_of(image: str) -> ImageKey:
    folded = _folded(image)
    if folded in _UID_NAMES:
        return "sop_instance_uid"
    return "accession" if folded in _ACCESSION_NAMES else "filename"


def _from_named(
    table: pd.DataFrame, vocabulary: Vocabulary, texts: Sequence[str], where: str
) -> dict[str, dict[str, str] | Delimited]:
    """Findings, or the column that lists them, as ``--label-columns`` names them."""
    wanted = {_folded(name): name for name in (*vocabulary.findings, NO_FINDING)}
    findings: dict[str, str] = {}
    for text in texts:
        # A column's own name may hold an equals sign.
        column, mark, finding = (text, "", "") if text in table else text.rpartition("=")
        if column not in table:
            raise UserError(f"{where}: --label-columns {text}: no column '{column or text}' ({_has(table)}).")
        meant = wanted.get(_folded(finding if mark else column))
        if meant is None and len(texts) == 1 and not mark:
            return {"delimited": _delimited(column, vocabulary)}
        if meant is None:
            raise UserError(
                f"{where}: --label-columns {text}: {suggest([finding if mark else column], vocabulary.findings)} is "
                f"no finding of vocabulary '{vocabulary.name}'. Write COLUMN=FINDING, or give a --label-map."
            )
        findings[column] = meant
    return {"findings": findings}


def _delimited(column: str, vocabulary: Vocabulary) -> Delimited:
    spellings: dict[str, tuple[str, ...]] = {
        spelling: (name,) for name in vocabulary.findings for spelling in (name, name.replace("_", " "))
    }
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
    return columns_told(table.columns)
