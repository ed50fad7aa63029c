"""Label tables as hospitals save them: texts by column, whatever the separator and encoding."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.labels.columns import columns_told, is_value

#: What stands in rows and never names a column: an image's file name, a UID.
_NO_COLUMN_NAME = re.compile(r".*\.(dcm|dicom|ima|png|jpe?g|tiff?)|[\d.]+(\.\d+){3,}", re.IGNORECASE)

_LONGEST_NAME = 200
_SEPARATOR = re.compile(r'\s*"?sep=([,;\t|])"?[ ,;]*(?:\r\n|\r|\n|$)', re.IGNORECASE)


def need_columns(table: pd.DataFrame, columns: Sequence[str], where: str, what: str) -> None:
    """Make sure that a published table is the one it should be.

    Raises:
        UserError: naming the first column that is missing.
    """
    for column in columns:
        if column not in table:
            raise UserError(f"{where}: no column '{column}' ({columns_told(table.columns)}). Give {what}.")


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a label table as texts: CSV with commas, semicolons or tabs, possibly gzipped.

    Args:
        path: the table.
        columns: the columns that are kept, where the table has them; all if None, or if it has none of them.

    Raises:
        UserError: if it is missing, unreadable, without header or rows, or repeats a column.
    """
    text = _text_of(path)
    separator, text = _separator_of(text)
    first = text.lstrip().split("\n", 1)[0]
    if not first:
        raise UserError(f"{path.name}: is empty. Give the table of labels as --labels.")
    separator = separator or max((",", ";", "\t"), key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = (_without_blank_end(row) for row in reader if any(cell.strip() for cell in row))
        header = [" ".join(name.split()) for name in next(rows)]
        _check_header(header, path)
        at = [place for place, name in enumerate(header) if columns is None or name in columns]
        # Of a table that has none of them all are kept, so that an error can name what it has.
        at = at or list(range(len(header)))
        body: list[list[str]] = [[] for _ in at]
        # A table says few things often: each is kept once.
        once: dict[str, str] = {}
        for number, row in enumerate(rows, 2):
            if len(row) > len(header):
                raise UserError(
                    f"{path.name}: row {number} has more cells than the header. Quote cells that hold '{separator}'."
                )
            for column, place in zip(body, at, strict=True):
                cell = row[place] if place < len(row) else ""
                column.append(once.setdefault(cell, cell))
    except csv.Error as error:
        raise UserError(f"{path.name}: not readable as CSV ({error}). Save it as CSV with commas.") from error
    if not body[0]:
        raise UserError(f"{path.name}: has a header and no rows. Give the table of labels as --labels.")
    table: pd.DataFrame = pd.DataFrame(dict(zip((header[place] for place in at), body, strict=True)), dtype=str)
    return table


def _separator_of(text: str) -> tuple[str, str]:
    """The separator that a first line ``sep=;`` names, as spreadsheets write and read it, and the text behind it."""
    told = _SEPARATOR.match(text)
    return (told[1], text[told.end() :]) if told else ("", text)


def _without_blank_end(row: list[str]) -> list[str]:
    """A row without the empty cells behind its last one: spreadsheets save columns that were once in use."""
    end = len(row)
    while end and not row[end - 1].strip():
        end -= 1
    return row[:end]


def _check_header(header: Sequence[str], path: Path) -> None:
    if any(_NO_COLUMN_NAME.fullmatch(name) for name in header):
        # The first row is not quoted: it may name a patient.
        raise UserError(f"{path.name}: its first row is about an image. Put a row of column names above it.")
    if any(not name.isprintable() or len(name) > _LONGEST_NAME for name in header):
        raise UserError(f"{path.name}: a column's name is too long, or holds control characters. Rename it.")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        which = "a column's name" if is_value(repeated[0]) else f"column '{repeated[0]}'"
        raise UserError(f"{path.name}: {which} stands twice. Rename one of them.")


def _text_of(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give the table of labels as --labels.")
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read. Check the file and its permissions.") from error
    text = _decoded(content)
    if content[:4] == b"PK\x03\x04" or "\0" in text:
        raise UserError(f"{path.name}: is no text file. Save the table of labels as CSV.")
    return text


def _decoded(content: bytes) -> str:
    """UTF-8, UTF-16 where a mark says so (a spreadsheet's Unicode text), else Latin-1."""
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")
