"""``nc-medfl init``: a folder to work in, without the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nc_medfl.cli.console import emit
from nc_medfl.cli.options import AsJson


def init(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into; made if it isn't there.")],
    as_json: AsJson = False,
) -> None:
    """Write the jobs and site settings that come with the package into a folder, to be changed there.

    DIR/jobs has a folder for each job ('nc-medfl run DIR/jobs/fednca_cxr'); DIR/site_configs a hospital's site.yaml
    with every setting, and the project.yml of a federation. Nothing that is there is replaced.

    Example: `nc-medfl init federation`
    """
    from nc_medfl.templates import FOLDERS, write_templates

    made = write_templates(out)
    jobs = sorted({path.parent for path in made if path.name == "job.yaml"})
    lines = ["Jobs:", *map(str, jobs), "Site settings and the project of a federation:", str(out / FOLDERS[1])]
    emit({"out": str(out), "jobs": list(map(str, jobs)), "files": list(map(str, made))}, lines, as_json)
