"""Files that the disk doesn't give: one that is forbidden or damaged costs itself, a share that went ends the run."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from nc_medfl.data.inputs.files import SourceFile

#: Size and time that no file has: a record with these is never current, so a rerun tries the file again.
NOT_LISTED = (-1, -1)
#: SHA-256 of no bytes: of a file none were read.
NOTHING = hashlib.sha256(b"").hexdigest()
#: What may be wrong with one file alone; anything else is the share's.
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_DAMAGED = errno.EIO
#: So many damaged files one after the other are no damaged files: the disk or the share doesn't answer any more.
_IN_A_ROW = 8


class _Row:
    """Damaged files that this process met since it last read one."""

    damaged = 0


_row = _Row()


def costs_itself(file: SourceFile, error: OSError) -> bool:
    """Whether an error is about this file alone, so that the others may be read on.

    It is where the file is forbidden, or can't be read off the disk, and the folder it lies in can still be listed.

    Args:
        file: which could not be read.
        error: how it failed.
    """
    if error.errno in _FORBIDDEN:
        return _folders_answer(file)
    if error.errno != _DAMAGED:
        return False
    _row.damaged += 1
    return _row.damaged < _IN_A_ROW and _folders_answer(file)


def was_read() -> None:
    """Note that a file was read: the disk answers."""
    _row.damaged = 0


def reason(error: OSError) -> str:
    """What the system says, which names no file."""
    return f"cannot be read ({error.strerror or type(error).__name__})"


def _folders_answer(file: SourceFile) -> bool:
    folders: set[Path] = {file.path.parent, file.root if file.within else file.root.parent}
    try:
        for folder in folders:
            with os.scandir(folder) as entries:
                next(entries, None)
    except OSError:
        return False
    return True
