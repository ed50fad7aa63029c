"""``nc-medfl stop``: end a POC that was left running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nc_medfl.cli.console import emit
from nc_medfl.cli.options import AsJson
from nc_medfl.errors import UserError


def stop(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --poc-dir of the run that left it.")],
    as_json: AsJson = False,
) -> None:
    """Stop a POC that 'run --keep-poc' left running, with everything it started.

    Example: `nc-medfl stop poc`
    """
    from nc_medfl.federation.environments import poc_folder

    if not (folder / poc_folder.LOCK).is_file():
        raise UserError(f"{folder}: no POC. Give the --poc-dir of the run that left it.")
    with poc_folder.used(folder.resolve()):
        stopped = poc_folder.end(folder.resolve())
    emit({"stopped": stopped}, ["stopped" if stopped else "nothing ran there"], as_json)
