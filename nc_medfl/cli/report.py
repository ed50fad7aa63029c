"""``nc-medfl report``: write a run's page again, a site's own page, or one that compares two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nc_medfl.cli.console import emit
from nc_medfl.cli.options import AsJson
from nc_medfl.errors import UserError


def report(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="The --out of 'nc-medfl run', or of 'nc-medfl evaluate'."),
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Only what this site may see: its own numbers, whole, and no other site's.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Two folders with metrics.csv, side by side.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write (default: in RUN, or in A).")] = None,
    as_json: AsJson = False,
) -> None:
    """Write RUN/report.html again from the run's tables.

    Example: `nc-medfl report runs/first --site st_mary`
    """
    from nc_medfl.report import write_comparison, write_report

    if (run is None) == (compare is None):
        raise UserError("report: give either RUN or --compare A B.")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: no folder {out.parent}. Make it, or give another file.")
    if compare is not None and site is not None:
        raise UserError("report: --site goes with RUN, not with --compare.")
    if compare is not None:
        page = write_comparison(*compare, out=out)
    else:
        assert run is not None
        page = write_report(run, site=site, out=out)
    emit({"report": str(page)}, [str(page)], as_json)
