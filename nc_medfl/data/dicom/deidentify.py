"""What is kept of a DICOM header: a whitelist of closed terms and numbers, and the identifiers apart.

Nothing is copied as free text. A value outside its closed list becomes empty.
"""

from __future__ import annotations

import math
import re
from datetime import date
from typing import Any

from pydicom.multival import MultiValue

from nc_medfl.data.dicom.identifier import patient_id_of
from nc_medfl.data.radiograph import Identity

AGE_CAP = 90.0
_MODALITIES = frozenset({"CR", "DX", "RG", "OT", "SC"})
_VIEWS = {
    **{view: view for view in ("PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LATERAL")},
    **{"LAT": "LATERAL", "L LAT": "LL", "R LAT": "RL"},
}
_AGE = re.compile(r"([0-9]{1,5})\s*([DWMY]?)")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0, "": 1.0}


def value(dataset: Any, keyword: str) -> Any:
    """An element's value, or None where it is absent, empty, or not what its VR says."""
    try:
        found = dataset.get(keyword)
    except Exception:
        # pydicom converts values lazily and raises many kinds of errors on broken ones.
        return None
    return None if found is None or found == "" else found


def text(dataset: Any, keyword: str) -> str:
    """An element's first value as stripped text, empty where there is none."""
    found = value(dataset, keyword)
    if found is None:
        return ""
    if not isinstance(found, (str, bytes)) and hasattr(found, "__len__") and hasattr(found, "__getitem__"):
        found = found[0] if len(found) else ""
    return str(found).strip(" \0\t\r\n\v\f")


def numbers(dataset: Any, keyword: str) -> list[float]:
    """An element's values as finite floats; an element with one that isn't counts as absent."""
    found = value(dataset, keyword)
    if found is None or isinstance(found, bytes):
        return []
    many = not isinstance(found, str) and hasattr(found, "__len__") and hasattr(found, "__getitem__")
    try:
        out = [float(v) for v in (found if many else [found])]
    except (TypeError, ValueError, OverflowError):
        return []
    return out if all(math.isfinite(v) for v in out) else []


def each_number(dataset: Any, keyword: str) -> list[float]:
    """An element's values as floats, NaN in the place of each that isn't a finite number."""
    found = numbers(dataset, keyword)
    if found:
        return found
    try:
        # As it stands in the file: pydicom gives all values of an element or none.
        raw = dataset.get_item(keyword).value
    except Exception:
        return []
    if isinstance(raw, bytes):
        raw = raw.decode("latin-1").split("\\")
    return [_number(part) for part in (raw if isinstance(raw, (list, tuple, MultiValue)) else [])]


def _number(term: Any) -> float:
    try:
        found = float(term.strip(" \0") if isinstance(term, str) else term)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def integer(dataset: Any, keyword: str) -> int | None:
    """An element's first value as an integer, or None."""
    found = numbers(dataset, keyword)
    return int(found[0]) if found else None


def identity_of(dataset: Any) -> Identity:
    """The identifiers of a header, for keyed hashes and ``site_private`` only."""
    return Identity(
        patient_id=patient_id_of(dataset),
        study_uid=text(dataset, "StudyInstanceUID"),
        sop_uid=text(dataset, "SOPInstanceUID"),
        accession=text(dataset, "AccessionNumber"),
        study_date=date_of(text(dataset, "StudyDate")),
    )


def date_of(term: str) -> str:
    """A date as ``YYYYMMDD``, also from the retired form with dots; empty where it is none of the calendar."""
    digits = term.replace(".", "") if re.fullmatch(r"\d{4}\.\d{2}\.\d{2}", term) else term
    if not re.fullmatch(r"[0-9]{8}", digits):
        return ""
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return ""
    return digits


def modality_of(dataset: Any) -> str:
    """The modality, empty unless it is one that can be a radiograph's."""
    modality = text(dataset, "Modality").upper()
    return modality if modality in _MODALITIES else ""


def view_of(term: str) -> str:
    """A view position as a closed term, empty where it is none of them."""
    return _VIEWS.get(" ".join(term.upper().replace("_", " ").split()), "")


def sex_of(term: str) -> str:
    """``F``, ``M``, ``O`` or empty."""
    first = term.strip().upper()
    named = {"FEMALE": "F", "MALE": "M", "OTHER": "O"}.get(first, first)
    return named if named in {"F", "M", "O"} else ""


def age_of(term: str) -> float | None:
    """Years from an age string (``062Y``, ``006M``, ``62``), capped at 90; None where it is no human age.

    The standard has three digits (PS3.5 6.2, AS); some write four, as in ``1200M``.
    """
    match = _AGE.fullmatch(term.strip().upper())
    if match is None:
        return None
    years = int(match.group(1)) * _YEARS[match.group(2)]
    return None if years > 125 else round(min(years, AGE_CAP), 2)


def patient_age(dataset: Any) -> float | None:
    """Age at the examination, from PatientAge or from birth and study dates (which are not kept)."""
    stated = age_of(text(dataset, "PatientAge"))
    if stated is not None:
        return stated
    birth, study = date_of(text(dataset, "PatientBirthDate")), date_of(text(dataset, "StudyDate"))
    if not birth or not study:
        return None
    years = int(study[:4]) - int(birth[:4]) - (study[4:] < birth[4:])
    return age_of(str(years)) if years >= 0 else None


def burned_in_of(dataset: Any) -> str:
    """``yes``, ``no`` or ``unknown``: absence proves nothing."""
    return {"YES": "yes", "NO": "no"}.get(text(dataset, "BurnedInAnnotation").upper(), "unknown")
