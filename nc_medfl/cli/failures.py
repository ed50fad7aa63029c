"""What is told of a failure nobody foresaw: where it was, and in the verbs that read patients' files no word of it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from nc_medfl.errors import NcMedflError

_PACKAGE = Path(__file__).resolve().parents[1]
#: Verbs whose errors may quote a header, a label table or a file name.
_READ_PATIENTS = frozenset({"prepare", "labels", "withdraw", "predict", "explain"})


def where(error: BaseException) -> str:
    """Where in the package a failure was: ``data/join.py, line 12``; empty if it wasn't there."""
    frames = traceback.extract_tb(error.__traceback__)
    here = next((frame for frame in reversed(frames) if Path(frame.filename).is_relative_to(_PACKAGE)), None)
    return "" if here is None else f"{Path(here.filename).relative_to(_PACKAGE).as_posix()}, line {here.lineno}"


def one_line(error: BaseException) -> str:
    """A failure that nobody foresaw, without its words."""
    place = where(error)
    return (
        f"{type(error).__name__}{f' ({place})' if place else ''}, which nobody foresaw. Give the same command with "
        "'nc-medfl --debug' to see how it came about, and report it."
    )


def told(error: BaseException, arguments: Sequence[str]) -> str:
    """The traceback of an error, with its causes.

    Args:
        error: what was raised.
        arguments: of the command line. If they name a verb that reads patients' files, errors of others than this
            package are told by their type alone, since their words may name a patient or a file.
    """
    if not _READ_PATIENTS & set(arguments[:3]):
        return "".join(traceback.format_exception(error))
    lines: list[str] = []
    for link in reversed(list(_chain(error))):
        words = f": {link}" if isinstance(link, NcMedflError) else " (its words are left out: they may name a patient)"
        lines += [*traceback.format_tb(link.__traceback__), f"{type(link).__name__}{words}\n"]
    return "".join(lines)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
