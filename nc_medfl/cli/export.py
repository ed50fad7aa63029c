"""``nc-medfl export``: a job as FLARE's console takes it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nc_medfl.cli.console import emit
from nc_medfl.cli.options import AsJson, Overrides


def export(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="A job folder, such as jobs/fednca_cxr.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to put the FLARE job into, under its name.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write a job for those who submit with FLARE's own console ('submit_job FOLDER'): settings, no code, no data.

    The job begins with federation.min_sites sites, or two.

    Example: `nc-medfl export jobs/fednca_cxr exported --set rounds=50 --set federation.min_sites=3`
    """
    from nc_medfl.federation.environments.job_files import least_sites, write_job
    from nc_medfl.federation.jobs import read_job
    from nc_medfl.federation.workflows.outcome import complete

    settings = complete(read_job(job, overrides or []))
    # FLARE's recipes read the command line when they are imported, and would take options of ours for theirs.
    sys.argv = sys.argv[:1]
    folder = write_job(settings, job, out, min_clients=least_sites(settings))
    emit({"job": str(folder), "min_clients": least_sites(settings)}, [str(folder)], as_json)
