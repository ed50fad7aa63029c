"""A patient's identifier in one spelling, however a file wrote it down.

Patient ID (VR LO) is encoded by Specific Character Set (PS3.5 6.1.2, PS3.3 C.12.1.1.2), which exporters declare
wrongly or not at all. One patient under two spellings would be two patients, and could stand in two splits.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from typing import Any

from pydicom import charset
from pydicom.datadict import tag_for_keyword

#: Padding of DICOM strings (space and NUL), and what tables and exports add.
_PADDING = " \0\t\r\n\v\f\u00a0\u3000\ufeff"
_REPLACED = "\ufffd"
#: Sets that escape sequences switch to (PS3.3 C.12.1.1.2, code extensions), as Python calls them.
_SWITCHED = ("iso8859", "iso2022_jp", "iso2022_jp_2", "euc_kr", "iso_ir_58", "latin_1")
#: Runs of pairs as GB 2312 writes two characters or more; Latin text hardly has four marked letters in a row.
_CHINESE = re.compile(rb"(?:[\x00-\x7f]+|(?:[\xa1-\xf7][\xa1-\xfe]){2,})+")


def clean_identifier(text: str) -> str:
    """An identifier without padding and in one Unicode form (NFC); empty if nothing is left."""
    return unicodedata.normalize("NFC", text.replace("\0", "")).strip(_PADDING)


def patient_id_of(dataset: Any) -> str:
    """Patient ID of a data set, decoded as declared or, where that can't be right, as its bytes tell.

    Bytes that are UTF-8 beyond ASCII are taken as such whatever single-byte set is declared: Latin text is almost
    never that by accident.
    """
    raw = _raw(dataset, "PatientID")
    if not isinstance(raw, bytes):
        return clean_identifier("\\".join(map(str, raw)) if isinstance(raw, (list, tuple)) else str(raw or ""))
    if raw.isascii() and b"\x1b" not in raw:
        return clean_identifier(raw.decode("ascii"))
    return clean_identifier(_decoded(raw, _declared(dataset)))


def _raw(dataset: Any, keyword: str) -> Any:
    """The bytes of an element; its value where it was converted already, or the data set was made in memory."""
    try:
        element = dataset.get_item(tag_for_keyword(keyword))
        found = None if element is None else element.value
    except Exception:
        # As for any other element: broken in one of many ways is absent.
        return ""
    return list(found or ()) if type(found).__name__ == "MultiValue" else found


def _declared(dataset: Any) -> list[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(charset.convert_encodings(dataset.get("SpecificCharacterSet") or "ISO_IR 6"))
    except Exception:
        return []


def _decoded(raw: bytes, declared: list[str]) -> str:
    if b"\x1b" in raw:
        return _as(raw, list(dict.fromkeys((*declared[:1], *declared, *_SWITCHED)))) or raw.decode("latin-1")
    one_byte = all(name.replace("_", "-").startswith(("iso8859", "latin", "iso-ir-1")) for name in declared)
    if not one_byte and (text := _as(raw, declared)):
        return text
    for fits, encoding in ((True, "utf-8"), (_may_be_chinese(raw, declared), "gb18030"), (True, declared)):
        if fits and (text := _as(raw, [encoding] if isinstance(encoding, str) else encoding)):
            return text
    return raw.decode("latin-1")


def _may_be_chinese(raw: bytes, declared: list[str]) -> bool:
    """Whether pairs of bytes look like GB 2312, where nothing or Latin was declared, which exporters do by habit."""
    return not set(declared) - {"iso8859", "latin_1"} and _CHINESE.fullmatch(raw) is not None


def _as(raw: bytes, encodings: list[str]) -> str:
    """The bytes decoded, empty where they don't fit."""
    if not encodings:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = str(charset.decode_bytes(raw, encodings, set()))
    except (LookupError, ValueError):
        return ""
    return "" if _REPLACED in text else text
