"""The errors a user is meant to read: one line each, no traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NcMedflError(Exception):
    """What the command line prints as one line before it ends.

    The message says what, where, and what to do. It never holds a patient identifier or the free text of a
    record.
    """

    exit_code = 1


class UserError(NcMedflError):
    """A mistake the user can mend: bad input, a wrong key, a missing file."""

    exit_code = 2


class RunFailed(NcMedflError):
    """A federation that started and could not finish."""


class SiteFailed(RunFailed):
    """A federation that needs every site, and one's task failed. The site itself knows more than the server says."""


class Stopped(NcMedflError):
    """A run that its user stopped, with what there is to say about what is left of it."""

    exit_code = 130


@contextmanager
def writing(place: Path, remedy: str, *, told_as: str | None = None) -> Iterator[None]:
    """Have what the disk refuses while something is written told in one line.

    Args:
        place: the file or folder that is written.
        remedy: what to do if it can't be.
        told_as: what the message calls it; its path by default.

    Raises:
        UserError: in the place of an ``OSError``. One that names a file elsewhere was no writing, and says so.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if isinstance(error.filename, str | bytes | os.PathLike):
            named = Path(os.fsdecode(error.filename))
            if not _is_of(named, place):
                raise UserError(f"{named}: cannot be read ({reason}). Check its permissions and the disk.") from error
        raise UserError(f"{told_as or place}: cannot be written ({reason}). {remedy}") from error


def _is_of(named: Path, place: Path) -> bool:
    """Whether a path is the place, in it, on the way to it, or a temporary one beside it."""
    line = (named, *named.parents)
    return place in line or named in place.parents or any(path.name.startswith(f".{place.name}.") for path in line)
