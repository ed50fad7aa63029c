"""A file to be read: itself, or a member of an archive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nc_medfl.data.dicom.quarantine import Outcome

#: Which reader a file needs.
SourceKind = Literal["dicom", "picture"]


@dataclass(frozen=True)
class Place:
    """Where in an archive a member lies, as it was listed.

    Attributes:
        entry: position in a zip's directory; -1 in a tar.
        start: its first byte, of the unpacked tar or entry.
        size: its bytes, as the archive states.
        stamp: size and modification time (ns) of the archive then.
        dtype, shape: of one image, where the entry is an array of images.
    """

    entry: int
    start: int
    size: int
    stamp: tuple[int, int]
    dtype: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of an images folder. Small, as there may be a million.

    Attributes:
        name: its path relative to that folder, with ``/``; the order of preparation. Of a member of an archive:
            the archive's path, then the member's.
        root: the folder, or the file itself.
        within: where below ``root`` it lies, itself or the archive; empty where ``root`` is it.
        member: which member of the archive it is, by its safe name; empty where the file is the image.
        place: where in the archive it lies.
        flaw: outcome and detail of what is known to be unusable without being read.
    """

    name: str
    root: Path
    within: str = ""
    member: str = ""
    place: Place | None = None
    flaw: tuple[Outcome, str] | None = None

    @property
    def path(self) -> Path:
        """Where it lies, itself or the archive."""
        return self.root / self.within


class FileList(tuple[SourceFile, ...]):
    """Files, and remarks for the person who gave them (without names: those may be of patients)."""

    remarks: tuple[str, ...]

    def __new__(cls, files: Iterable[SourceFile] = (), remarks: Iterable[str] = ()) -> FileList:
        made = super().__new__(cls, files)
        made.remarks = tuple(remarks)
        return made


def reading_order(file: SourceFile) -> tuple[str, int, int]:
    """Key to sort files by so that each archive is read from its beginning to its end."""
    if not file.member:
        return file.name, -1, -1
    archive = file.name[: len(file.name) - len(file.member) - 1]
    return (archive, -1, -1) if file.place is None else (archive, file.place.entry, file.place.start)
