"""What every verb prints with: progress and remarks on stderr, results on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: Remarks, warnings, progress and errors. Results go to stdout by :func:`emit`.
console = Console(stderr=True, highlight=False, soft_wrap=True)

_stdout = Console(highlight=False, soft_wrap=True)


def emit(payload: Mapping[str, Any], lines: Sequence[str], as_json: bool) -> None:
    """Print a result on stdout: the payload as one JSON document, or the lines for a person."""
    if as_json:
        _stdout.print(json.dumps(payload, indent=2, sort_keys=True, allow_nan=False), markup=False)
        return
    for line in lines:
        _stdout.print(line, markup=False)


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress while a long step runs.

    Yields:
        A function to be called with (done, total).
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update
