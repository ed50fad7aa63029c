"""``nc-medfl report``: write a run's page again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nc_medfl.cli.console import emit
from nc_medfl.federation.run_folder import read_run


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The --out of 'nc-medfl run'.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Write RUN/report.html again from the run's tables.

    Example: `nc-medfl report runs/first`
    """
    from nc_medfl.report import write_report

    read_run(run)
    page = write_report(run)
    emit({"report": str(page)}, [str(page)], as_json)
