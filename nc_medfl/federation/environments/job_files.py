"""A job as FLARE's own files: what is submitted, and what ``nc-medfl export`` writes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from nc_medfl.config import JobSettings
from nc_medfl.errors import UserError, writing
from nc_medfl.federation.jobs import recipe_builder


def least_sites(settings: JobSettings) -> int:
    """How many sites a job needs to begin: ``federation.min_sites``, or two."""
    return settings.federation.min_sites or 2


def write_job(settings: JobSettings, job_folder: Path | None, out: Path, *, min_clients: int) -> Path:
    """Write the folder that FLARE takes as a job. It holds settings and names of classes; no code, path or data.

    Importing FLARE's recipes reads ``sys.argv``: callers keep ``--export`` out of it.

    Args:
        settings: the job's.
        job_folder: the job whose ``build_recipe`` makes the recipe; None for the package's own.
        out: where to put ``<job name>/``.
        min_clients: sites that FLARE waits for before it starts the job.

    Returns:
        The job's folder.

    Raises:
        UserError: if there is something in its place, or it can't be written.
    """
    target = out / settings.name
    if target.exists():
        raise UserError(f"{target}: there already. Remove it, or give another folder.")
    recipe = recipe_builder(job_folder)(settings, min_clients=min_clients)
    with tempfile.TemporaryDirectory(prefix="nc_medfl-") as scratch:
        recipe.export(job_dir=scratch)
        with writing(out, "Give another folder."):
            out.mkdir(parents=True, exist_ok=True)
            shutil.copytree(Path(scratch) / settings.name, target)
    return target
