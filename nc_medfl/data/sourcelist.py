"""``site_private/sources.csv``: the way from samples back to their files."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom

from nc_medfl.data.dicom.identifier import patient_id_of
from nc_medfl.data.dicom.quiet import quiet_pydicom
from nc_medfl.data.inputs.content import read_member
from nc_medfl.data.manifest import keyed_hash
from nc_medfl.data.private import FOLDER, plain_cell
from nc_medfl.errors import UserError

SOURCES = "sources.csv"
_NOTHING = hashlib.sha256().hexdigest()
_TELLING = ["PatientID", "SpecificCharacterSet"]


@dataclass(frozen=True)
class Source:
    """A line: one file that a preparation met.

    Attributes:
        sample_id: of an image in the store; else empty.
        outcome: how it was judged.
        path: where the file was.
        source_sha256: of its bytes.
        patient_key: whose it is, where that was found out; else empty.
        member: which member of the archive at ``path``; empty where the file is the image.
    """

    sample_id: str
    outcome: str
    path: Path
    source_sha256: str
    patient_key: str = ""
    member: str = ""

    def read(self) -> bytes:
        """The bytes of the original."""
        if self.member:
            return read_member(self.path, self.member)
        return self.path.read_bytes()


def read_sources(store: Path) -> list[Source]:
    """All lines of a store's list.

    Raises:
        UserError: if the store has none (a copy, or a partition's).
    """
    _, rows = _rows(store)
    return [
        Source(
            row.get("sample_id", ""),
            row.get("outcome", ""),
            Path(plain_cell(row.get("path", ""))),
            row.get("source_sha256", ""),
            row.get("patient_key", ""),
            plain_cell(row.get("member", "")),
        )
        for row in rows
    ]


def patient_of(source: Source, salt: bytes) -> str | None:
    """Key of the patient that a file is of, or None where that can't be told any more.

    What the list says counts. Else the file's own header is asked, if it is still there and has one.

    Args:
        source: its line.
        salt: the site's secret.
    """
    if source.patient_key:
        return source.patient_key
    try:
        with quiet_pydicom():
            header = pydicom.dcmread(
                BytesIO(source.read()), stop_before_pixels=True, specific_tags=_TELLING, force=True
            )
            identifier = patient_id_of(header)
    except Exception:
        # Whatever is broken about a file that was rejected for being broken.
        return None
    return keyed_hash(salt, "patient", identifier) if identifier else None


def has_sources(store: Path) -> bool:
    """Whether a store has a list of its sources."""
    return (store / FOLDER / SOURCES).is_file()


def sources_without(store: Path, digests: frozenset[str], patients: frozenset[str]) -> bytes:
    """The list as it is to be without the lines of some files.

    Args:
        store: whose list it is.
        digests: SHA-256 of the files.
        patients: keys of whom they are; a line that names another patient stays, as files may have the same bytes. Of
            anybody, where empty.
    """
    header, rows = _rows(store)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, header, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        digest, named = row.get("source_sha256"), row.get("patient_key") or ""
        # Files without a byte, or not unpacked, are all alike: only a name says whose they are.
        others = bool(patients) and named not in patients and (named != "" or digest == _NOTHING)
        if digest not in digests or (others and not row.get("sample_id")):
            writer.writerow(row)
    return buffer.getvalue().encode("utf-8", "surrogateescape")


def _rows(store: Path) -> tuple[list[str], list[dict[str, str]]]:
    path = store / FOLDER / SOURCES
    try:
        content = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UserError(
            f"{store}: has no {FOLDER}/{SOURCES} ({error.strerror}). Give the store that the site itself prepared."
        ) from error
    reader = csv.DictReader(io.StringIO(content, newline=""))
    return list(reader.fieldnames or ()), list(reader)
