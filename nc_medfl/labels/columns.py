"""A table's column names, as they may be told to a person."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Columns that a message lists; a table may have thousands.
_MOST_TOLD = 30
#: No name of a column, but a value: a number or date, or a name as DICOM writes it.
_VALUE = re.compile(r"[\d][\d.,:/ -]*|.*\^.*")
_WHOLE = re.compile(r"[0-9]+\.0+")


def whole_number(text: str) -> str:
    """An identifier as it was before a spreadsheet or pandas took it for a number: ``1207`` for ``1207.0``.

    Leading zeros that they took away can't be known.
    """
    plain = text.strip()
    return plain.partition(".")[0] if _WHOLE.fullmatch(plain) else plain


def is_value(name: str) -> bool:
    """Whether what stands in place of a column's name looks like a value, and may be a patient's."""
    return _VALUE.fullmatch(name) is not None


def columns_told(columns: Iterable[object]) -> str:
    """The columns of a table in a line of an error: ``it has: file, age and 12 more``.

    Names that look like values are not quoted: a table without a header has a patient's row in place of names.

    Example:
        >>> columns_told(["file", "age"])
        'it has: file, age'
        >>> columns_told(["7", "Doe^Jane"])
        'it has 2 columns whose names look like values; is its header missing?'
    """
    names = [str(name) for name in columns]
    if any(map(is_value, names)):
        return f"it has {len(names)} columns whose names look like values; is its header missing?"
    more = len(names) - _MOST_TOLD
    return f"it has: {', '.join(names[:_MOST_TOLD])}" + (f" and {more} more" if more > 0 else "")
