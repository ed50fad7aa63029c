"""The files that a DICOMDIR refers to (PS3.3 annex F, PS3.10 section 8.6)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom

from nc_medfl.data.dicom.deidentify import text, value
from nc_medfl.data.dicom.quiet import quiet_pydicom
from nc_medfl.errors import UserError

_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
_INACTIVE = 0
#: A DICOMDIR of more bytes lists more files than any medium holds.
_LONGEST = 2**29


def is_dicomdir(path: Path) -> bool:
    """Whether a file is a DICOMDIR, by its contents."""
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return False
    with quiet_pydicom():
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
        except Exception:
            return False
    return text(meta, "MediaStorageSOPClassUID") == _MEDIA_STORAGE_DIRECTORY


def referenced_files(dicomdir: Path) -> tuple[list[Path], int]:
    """Files below a DICOMDIR's folder that its records in use refer to.

    Media are often mounted with names in lower case, so names are also compared without case.

    Returns:
        Paths relative to its folder, as they lie on the disk, sorted; and how many are missing.

    Raises:
        UserError: if it can't be read.
    """
    found: set[Path] = set()
    missing: set[tuple[str, ...]] = set()
    folders: dict[Path, dict[str, str]] = {}
    for parts in _file_ids(dicomdir):
        path = _on_disk(dicomdir.parent, parts, folders)
        if path is None:
            missing.add(parts)
        else:
            found.add(path)
    return sorted(found), len(missing)


def _file_ids(dicomdir: Path) -> Iterator[tuple[str, ...]]:
    with quiet_pydicom():
        try:
            if dicomdir.stat().st_size > _LONGEST:
                raise ValueError("too long")
            dataset = pydicom.dcmread(dicomdir)
            records = list(value(dataset, "DirectoryRecordSequence") or [])
        except Exception as error:
            raise UserError(
                f"{dicomdir}: cannot be read as a DICOMDIR ({type(error).__name__}). Give the folder instead."
            ) from error
        for record in records:
            if value(record, "RecordInUseFlag") != _INACTIVE and (parts := _components(record)):
                yield parts


def _components(record: Any) -> tuple[str, ...]:
    file_id = value(record, "ReferencedFileID")
    if file_id is None or file_id == "":
        return ()
    # Up to eight components; some writers put them into one, with backslashes or slashes between.
    joined = [file_id] if isinstance(file_id, str) else list(file_id)
    return tuple(part for one in joined for part in str(one).replace("\\", "/").strip(" \0").split("/"))


def _on_disk(root: Path, parts: tuple[str, ...], folders: dict[Path, dict[str, str]]) -> Path | None:
    """The file below a folder, or None where there is none or the File ID leads elsewhere."""
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        return None
    path = Path()
    for part in parts:
        here = root / path
        if here not in folders:
            names = [entry.name for entry in here.iterdir()] if here.is_dir() else []
            # The exact name is put in last, so that it counts.
            folders[here] = {**{name.lower(): name for name in sorted(names)}, **{name: name for name in names}}
        name = folders[here].get(part) or folders[here].get(part.lower())
        if name is None:
            return None
        path /= name
    return path if (root / path).is_file() else None
