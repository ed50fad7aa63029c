"""``nc-medfl prepare --explain``: how single DICOM files are judged, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from nc_medfl.data.dicom.explain import Explanation, explain_file
from nc_medfl.data.engine import ProcessEngine, run_batches
from nc_medfl.data.worker import initialise
from nc_medfl.errors import UserError

_Numbered = tuple[int, str]


def explain_files(files: Sequence[str], as_json: bool) -> None:
    """Print a line of JSON, or a paragraph, for each file, in the order given.

    A file that crashes a decoder costs itself only, as in a preparation.

    Raises:
        UserError: if no file is given, or one of them can't be read (after all have been told of).
    """
    if not files:
        raise UserError("--explain: name one file or more, such as: nc-medfl prepare --explain film.dcm")
    unreadable = 0
    done: dict[int, Explanation] = {}
    numbered = list(enumerate(files))
    upcoming = 0
    results = run_batches(
        _explained, numbered, engine=ProcessEngine(1, initialise), split=lambda batch: [batch], crashed=_crashed
    )
    for number, explanation in results:
        done[number] = explanation
        while upcoming in done:
            _tell(files[upcoming], done.pop(upcoming), as_json)
            upcoming += 1
        unreadable += not explanation.readable
    if unreadable:
        raise UserError(f"--explain: {unreadable} of {len(files)} files cannot be read. Check names and permissions.")


def _explained(numbered: _Numbered) -> tuple[int, Explanation]:
    number, file = numbered
    return number, explain_file(Path(file))


def _crashed(numbered: _Numbered) -> tuple[int, Explanation]:
    return numbered[0], Explanation("undecodable", ["undecodable: the decoder crashed"])


def _tell(file: str, explanation: Explanation, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(explanation.to_json(file)))
        return
    # A name may hold bytes that are no text, or control characters.
    shown = file.encode("utf-8", "backslashreplace").decode()
    typer.echo("".join(c if c.isprintable() else repr(c)[1:-1] for c in shown))
    typer.echo(f"  {explanation.outcome}")
    for decision in explanation.decisions:
        typer.echo(f"  - {decision}")
    if explanation.mean is not None and explanation.std is not None:
        typer.echo(f"  display image: mean {explanation.mean:.4f}, standard deviation {explanation.std:.4f}")
