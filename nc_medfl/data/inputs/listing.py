"""Which files lie under ``--images``: a folder with its subfolders and archives, one archive, or a DICOMDIR."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nc_medfl.data.inputs.archives import ARCHIVES, NPZ, Members, list_members
from nc_medfl.data.inputs.dicomdir import is_dicomdir, referenced_files
from nc_medfl.data.inputs.files import FileList, SourceFile
from nc_medfl.data.inputs.unreadable import reason
from nc_medfl.errors import UserError

_GIVE = "Give the folder with the images as --images, or one archive (.zip, .tar, .tar.gz), or a DICOMDIR."
#: Names of what is packed in a way that isn't opened, or is packed twice.
_PACKED = (*ARCHIVES, ".gz", ".bz2", ".xz", ".7z", ".rar")
_OPENED = (".nii.gz",)
#: Ordinals of damaged archives that a remark tells.
_TOLD = 5


def list_files(folder: Path, suffixes: Sequence[str] = ()) -> FileList:
    """All files below a folder, and those in its archives, sorted by name; hidden ones are left out.

    Links to folders are followed, each folder once. An archive's members are named after it,
    ``archive.zip/inner/x.dcm``; one that can't be listed to its end is listed itself, with its flaw.

    Args:
        folder: the images folder, or a single archive, or a DICOMDIR.
        suffixes: only names that end so (lower case); all where empty. Archives are opened whatever these are, a
            MedMNIST ``.npz`` if ``.npz`` is among them or it is itself ``folder``.

    Raises:
        UserError: if there is nothing, or it is unreadable or without files.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such folder. {_GIVE}")
    try:
        found, remarks = _found(folder, tuple(suffixes))
    except OSError as error:
        raise UserError(
            f"{folder}: it, or a folder below it, cannot be read ({error.strerror or type(error).__name__}). Check "
            "the permissions of all folders; a run must know which files there are."
        ) from error
    if not found:
        wanted = f" that end in {', '.join(suffixes)}" if suffixes else ""
        raise UserError(f"{folder}: holds no files{wanted}. {_GIVE}")
    return FileList(sorted(found, key=lambda file: file.name), [*remarks, *_left_packed(found)])


def _left_packed(found: Iterable[SourceFile]) -> list[str]:
    """One line, without names, about files that may hold images and aren't opened."""
    names = (file.name.lower() for file in found if file.flaw is None)
    packed = sum(name.endswith(_PACKED) and not name.endswith(_OPENED) for name in names)
    if not packed:
        return []
    return [
        f"{packed} files are packed in a way that isn't opened (an archive in an archive, a single file as .gz, .7z, "
        ".rar). sources.csv in site_private says which; unpack them first."
    ]


def _found(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[SourceFile], list[str]]:
    if folder.is_dir():
        below = _Below()
        found, remarks = _opened(folder, below.files(folder), suffixes)
        return found, remarks + below.remarks()
    if _is_archive(folder.name, (NPZ,)):
        return _opened(folder.parent, [folder.name], (NPZ,) if folder.name.lower().endswith(NPZ) else suffixes)
    if is_dicomdir(folder):
        listed, missing = referenced_files(folder)
        if not listed:
            raise UserError(
                f"{folder}: none of the {missing} files that this DICOMDIR lists is there. Copy the whole medium."
            )
        remark = (
            f"{missing} of {missing + len(listed)} files that the DICOMDIR lists are missing; copy the whole medium."
        )
        names = [path.as_posix() for path in listed]
        return _opened(folder.parent, names, suffixes)[0], [remark] if missing else []
    raise UserError(f"{folder}: is a file. {_GIVE}")


def _is_archive(name: str, suffixes: tuple[str, ...]) -> bool:
    lower = name.lower()
    return lower.endswith(ARCHIVES) or (NPZ in suffixes and lower.endswith(NPZ))


@dataclass
class _Archives:
    """Archives met so far, and which of them (by their number) are damaged."""

    met: int = 0
    damaged: list[int] = field(default_factory=list)

    def open(self, root: Path, name: str, suffixes: tuple[str, ...]) -> Iterator[SourceFile]:
        self.met += 1
        try:
            members = list_members(root / name, suffixes)
        except PermissionError as error:
            members = Members(flaw=("unreadable", reason(error)))
        for member in members.found:
            yield SourceFile(f"{name}/{member.name}", root, name, member.name, member.place, member.flaw)
        if members.flaw is not None:
            self.damaged.append(self.met)
            yield SourceFile(name, root, name, flaw=members.flaw)

    def remarks(self) -> list[str]:
        """One line, without names: those of archives are often names of patients."""
        if not self.damaged:
            return []
        told = ", ".join(map(str, self.damaged[:_TOLD])) + (", ..." if len(self.damaged) > _TOLD else "")
        return [
            f"{len(self.damaged)} of {self.met} archives can't be read whole (by name: no. {told}); what could be "
            "listed in them is read. sources.csv in site_private says which, and why; pack or transfer them again."
        ]


def _opened(root: Path, names: Iterable[str], suffixes: tuple[str, ...]) -> tuple[list[SourceFile], list[str]]:
    """Files below a folder with the wanted names, and the members of archives among them."""
    found: list[SourceFile] = []
    archives = _Archives()
    for name in sorted(names):
        if _is_archive(name, suffixes):
            found.extend(archives.open(root, name, suffixes))
        elif not suffixes or name.lower().endswith(suffixes):
            found.append(SourceFile(name, root, name))
    return found, archives.remarks()


_Kind = Literal["folder", "link to a folder", "file", "other"]


@dataclass
class _Below:
    """What lies below a folder, and how many entries are neither files nor folders."""

    others: int = 0

    def files(self, root: Path) -> Iterator[str]:
        """Relative name of each file that isn't hidden, every folder once.

        Links to folders come last, so that a file has the name of the folder where it really lies. One to a folder
        above the root would lead out of what was given, and is left out like any other circle.
        """
        above = {_identity(parent) for parent in root.resolve().parents}
        seen = set(above)
        waiting, links = [("", root)], list[tuple[str, Path]]()
        while waiting or links:
            name, folder = waiting.pop() if waiting else links.pop()
            if (key := _identity(folder)) in seen:
                continue
            seen.add(key)
            linked: list[tuple[str, Path]] = []
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    kind = _kind_of(entry)
                    if kind == "folder":
                        waiting.append((f"{name}{entry.name}/", folder / entry.name))
                    elif kind == "link to a folder":
                        linked.append((f"{name}{entry.name}/", folder / entry.name))
                    elif kind == "file":
                        yield f"{name}{entry.name}"
                    else:
                        self.others += 1
            links = sorted([*links, *linked], reverse=True)

    def remarks(self) -> list[str]:
        """One line, without names, where something was left out."""
        if not self.others:
            return []
        return [f"{self.others} entries of the folder are no files (links that lead nowhere, pipes) and are left out."]


def _kind_of(entry: os.DirEntry[str]) -> _Kind:
    try:
        if entry.is_dir():
            return "link to a folder" if entry.is_symlink() else "folder"
        return "file" if entry.is_file() else "other"
    except OSError:
        # A link in a circle, or to what is forbidden; of anything else the type is known without asking.
        if not entry.is_symlink():
            raise
        return "other"


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
