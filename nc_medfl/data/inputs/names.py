"""Names of archive members, which anybody may have written, made safe."""

from __future__ import annotations

import re

#: Longest name that is kept, characters and folders; of a longer one the end.
_LONGEST, _DEEPEST = 1024, 32
#: Control characters, line separators, and marks that turn the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_DRIVE = re.compile("[A-Za-z]:")


def safe_name(raw: str) -> str:
    r"""A relative path without ``..``, drive, control characters or endless length; empty for a hidden file.

    Args:
        raw: the name that the archive states; it is never used as a path.

    Example:
        >>> safe_name("C:\\archive\\..\\x\n.dcm")
        'archive/x_.dcm'
    """
    parts = [part for part in _CONTROL.sub("_", raw).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if parts and _DRIVE.fullmatch(parts[0]):
        del parts[0]
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return ""
    return "/".join(parts[-_DEEPEST:])[-_LONGEST:].lstrip("/") or "member"


class UniqueNames:
    """Numbers names that come again: ``x.dcm``, ``x~2.dcm``, ``x~3.dcm``."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._times: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """The name, or the next free numbered one."""
        free = name
        folder, slash, last = name.rpartition("/")
        stem, dot, suffix = last.partition(".")
        while free in self._used:
            times = self._times[name] = self._times.get(name, 1) + 1
            free = f"{folder}{slash}{stem}~{times}{dot}{suffix}"
        self._used.add(free)
        return free
