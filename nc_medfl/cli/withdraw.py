"""``nc-medfl withdraw``: a patient withdraws, or a reviewer takes images out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nc_medfl.cli.console import emit, warn
from nc_medfl.data.usage import RunUse
from nc_medfl.data.withdraw import Request, Withdrawal
from nc_medfl.data.withdraw import withdraw as run_withdraw
from nc_medfl.errors import UserError

_STDIN = "-"


def withdraw(
    store: Annotated[
        list[Path], typer.Argument(metavar="STORE...", help="The store, and the sites' stores of its partitions.")
    ],
    patient: Annotated[
        list[str] | None,
        typer.Option(
            help="The patient's identifier (repeatable). A command line is kept by the shell and seen by others."
        ),
    ] = None,
    patient_file: Annotated[
        str | None, typer.Option(help="File with an identifier a line; '-' reads them from standard input.")
    ] = None,
    samples: Annotated[
        str | None, typer.Option(help="File with a sample_id a line, as the review page gives it; '-': standard input.")
    ] = None,
    salt_file: Annotated[Path | None, typer.Option(help="Secret that keys patients; else STORE/site_private.")] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with run folders, to name those that used the images (repeatable)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Take a patient, or single images, out of stores for good. Run again if it was interrupted.

    Example: nc-medfl withdraw store --patient-file - --runs runs

    Example: nc-medfl withdraw store --samples take_out.txt
    """
    patients = tuple(
        dict.fromkeys(name.strip() for name in [*(patient or []), *_lines_of(patient_file, "--patient-file")])
    )
    chosen = tuple(dict.fromkeys(_lines_of(samples, "--samples")))
    if any(not name for name in patients):
        raise UserError("--patient: is empty. Give the identifier as the archive or the label table writes it.")
    if bool(patients) == bool(chosen):
        raise UserError("withdraw: give either --patient or --patient-file, or --samples.")
    request = Request(patients, chosen)
    done = run_withdraw(store, request, salt_file=salt_file, runs=runs or (), dry_run=dry_run)
    for remark in _remarks(done):
        warn(remark)
    payload = {"dry_run": dry_run, "stores": [_payload(one) for one in done]}
    emit(payload, _said(done, dry_run=dry_run), as_json)


def _lines_of(file: str | None, option: str) -> list[str]:
    if file is None:
        return []
    try:
        text = sys.stdin.read() if file == _STDIN else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option} {file}: cannot be read. Give a text file with one a line.") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{option} {file}: holds no line. Give a text file with one a line.")
    return lines


def _payload(one: Withdrawal) -> dict[str, object]:
    return {**asdict(one), "store": str(one.store), "runs": [asdict(use) for use in one.runs]}


def _said(done: Sequence[Withdrawal], *, dry_run: bool) -> list[str]:
    lines = []
    for one in done:
        if one.images or one.files:
            verb = "would be taken out of" if dry_run else "taken out of"
            lines.append(f"{one.images} images {verb} the store, {one.files} rejected files off its lists:")
        elif one.earlier:
            lines.append("Taken out before; nothing is left in:")
        else:
            lines.append("Not in:")
        lines.append(str(one.store))
        if one.exports:
            lines.append(f"{one.exports} exported files removed.")
        lines += _runs(one.runs)
    return lines


def _runs(runs: Sequence[RunUse]) -> list[str]:
    if not runs:
        return []
    lines = ["Runs that used them; a trained model keeps what it learned:"]
    for use in runs:
        how = (
            "in " + ", ".join(split or "no split" for split in use.splits) if use.certain else "possibly (no note here)"
        )
        lines.append("  " + ", ".join(part for part in (use.name, use.started, use.job, how) if part))
        if use.folder:
            lines.append(use.folder)
    return lines


def _remarks(done: Sequence[Withdrawal]) -> list[str]:
    untold = sum(one.untold for one in done)
    if not untold:
        return []
    return [
        f"of {untold} rejected files it can't be told any more whose they are; their lines in "
        "site_private/sources.csv stay."
    ]
