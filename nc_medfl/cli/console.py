"""What every verb prints with: progress and remarks on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

#: How often progress is told where there is no terminal, seconds.
_LINE_EVERY = 10.0

#: Remarks, warnings, progress and errors. Results go to stdout by :func:`emit`.
console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def be_quiet() -> None:
    """From here on, neither progress nor remarks; warnings, errors and results stay."""
    console.quiet = True


def note(text: str) -> None:
    """A remark."""
    console.print(text, markup=False)


def warn(text: str) -> None:
    """Something that the user should look at; said even where quiet was asked for."""
    quiet, console.quiet = console.quiet, False
    console.print(f"warning: {text}", style="yellow", markup=False)
    console.quiet = quiet


def emit(payload: Mapping[str, Any], lines: Sequence[str], as_json: bool) -> None:
    """Print a result on stdout: the payload as one JSON document, or the lines for a person."""
    if as_json:
        lines = [json.dumps(payload, indent=2, sort_keys=True, allow_nan=False)]
    # Plainly: paths are neither wrapped nor searched for markup.
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[..., None]]:
    """Show progress while a long step runs: rate, time left and outcomes so far. Nothing is shown before it begins.

    A terminal gets a bar; a pipe or a file gets a line now and then.

    Yields:
        A function to be called with (done, total), or (done, total, count by outcome).
    """
    shown = _Bar(description) if console.is_terminal and not console.quiet else _Lines(description)
    try:
        yield shown.update
    finally:
        shown.close()


class _Rate:
    """Steps a second since the first look, so that what was done before doesn't count."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def said(self, done: int, total: int) -> str:
        """Rate and time left, empty until they are known."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, done)
        since, first = now - self._start[0], done - self._start[1]
        if first <= 0 or since <= 0:
            return ""
        rate = first / since
        left = timedelta(seconds=round((total - done) / rate))
        return f"{rate:.3g}/s" + (f", {left} left" if done < total else "")


def _outcomes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


class _Bar:
    """Progress on a terminal."""

    def __init__(self, description: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}", markup=False),
        )
        self._description = description
        self._progress = Progress(*columns, console=console)
        self._task: TaskID | None = None
        self._rate = _Rate()

    def update(self, done: int, total: int, counts: Mapping[str, int] = MappingProxyType({})) -> None:
        """Show how far it is."""
        said = "  ".join(text for text in (self._rate.said(done, total), _outcomes(counts)) if text)
        if self._task is None:
            self._task = self._progress.add_task(self._description, total=total, said=said)
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total, said=said)

    def close(self) -> None:
        """Leave the last state standing."""
        if self._task is not None:
            self._progress.stop()


class _Lines:
    """Progress in a log: a line every ten seconds, and one at the end."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._rate = _Rate()
        self._printed: float | None = None
        self._last = ""
        self._pending = False

    def update(self, done: int, total: int, counts: Mapping[str, int] = MappingProxyType({})) -> None:
        """Note how far it is, and say it now and then."""
        texts = (f"{done} of {total}", self._rate.said(done, total), _outcomes(counts))
        self._last = f"{self._description}: " + "; ".join(text for text in texts if text)
        self._pending = True
        now = time.monotonic()
        if self._printed is None:
            self._printed = now
        elif now - self._printed >= _LINE_EVERY:
            self._printed = now
            self._print()

    def close(self) -> None:
        """Say the last state, if it wasn't."""
        if self._pending:
            self._print()

    def _print(self) -> None:
        console.print(self._last, markup=False)
        self._pending = False
