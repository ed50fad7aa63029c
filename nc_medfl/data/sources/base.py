"""What every source gives: a label table, the files, and how a file is read."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.labels import HarmonisedLabels

SourceKind = Literal["dicom", "picture"]

#: What stands in rows and never names a column: an image's file name, a UID.
_NO_COLUMN_NAME = re.compile(r".*\.(dcm|dicom|ima|png|jpe?g|tiff?)|[\d.]+(\.\d+){3,}", re.IGNORECASE)


@dataclass(frozen=True)
class SourceFile:
    """One file of an images folder.

    Attributes:
        name: its path relative to that folder, with ``/``; the order of preparation. Of a member of an archive:
            the archive's path, then the member's.
        path: where it lies, itself or the archive.
        member: which member of the archive it is; empty where the file is the image.
    """

    name: str
    path: Path
    member: str = ""


@dataclass(frozen=True)
class SourceData:
    """A source, opened: everything that is known before an image is read.

    Attributes:
        kind: which reader the files need.
        files: sorted by name.
        labels: the harmonised label table.
        extra: by image key, facts that only the table holds (see :func:`nc_medfl.data.sources.nih.facts_of_table`).
        match_uid: whether a key may also be an SOP Instance UID.
        match_name: whether a key may be a file name.
        public: whether the images are published, so that keys need no secret.
        label_map: name and version of the map, for the record.
        uncertain: what became of uncertain labels.
        table: what the table is called in messages.
    """

    kind: SourceKind
    files: tuple[SourceFile, ...]
    labels: HarmonisedLabels
    label_map: str
    uncertain: str
    table: str
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    match_uid: bool = True
    match_name: bool = True
    public: bool = False


def list_files(folder: Path, suffixes: Sequence[str] = ()) -> tuple[SourceFile, ...]:
    """All files below a folder, sorted by relative path; hidden ones are left out.

    Args:
        folder: the images folder.
        suffixes: only names that end so (lower case); all where empty.

    Raises:
        UserError: if the folder is missing, unreadable or without files.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such folder. Give the folder with the images as --images.")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file. Give the folder with the images as --images.")
    failures: list[OSError] = []
    found: list[SourceFile] = []
    for parent, folders, names in os.walk(folder, onerror=failures.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(parent) / name
            if not name.startswith(".") and (not suffixes or path.suffix.lower() in suffixes) and path.is_file():
                found.append(SourceFile(path.relative_to(folder).as_posix(), path))
    if failures:
        raise UserError(f"{folder}: cannot be read ({failures[0].strerror}). Check its permissions.")
    if not found:
        wanted = f" that end in {', '.join(suffixes)}" if suffixes else ""
        raise UserError(f"{folder}: holds no files{wanted}. Give the folder with the images as --images.")
    return tuple(sorted(found, key=lambda file: file.name))


def read_table(path: Path) -> pd.DataFrame:
    """Read a label table as texts: CSV with commas, semicolons or tabs, possibly gzipped.

    Raises:
        UserError: if it is missing, unreadable, without header or rows, or repeats a column.
    """
    text = _text_of(path)
    first = text.lstrip().split("\n", 1)[0]
    if not first:
        raise UserError(f"{path.name}: is empty. Give the table of labels as --labels.")
    separator = max((",", ";", "\t"), key=first.count)
    try:
        rows = [
            _without_blank_end(row)
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator)
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise UserError(f"{path.name}: not readable as CSV ({error}). Save it as CSV with commas.") from error
    header, body = [name.strip() for name in rows[0]], rows[1:]
    _check_header(header, path)
    if not body:
        raise UserError(f"{path.name}: has a header and no rows. Give the table of labels as --labels.")
    ragged = next((number for number, row in enumerate(body, 2) if len(row) > len(header)), None)
    if ragged is not None:
        raise UserError(
            f"{path.name}: row {ragged} has more cells than the header. Quote cells that hold '{separator}'."
        )
    table: pd.DataFrame = pd.DataFrame(
        [row + [""] * (len(header) - len(row)) for row in body], columns=header, dtype=str
    )
    return table


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
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UserError(f"{path.name}: column '{repeated[0]}' stands twice. Rename one of them.")


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
