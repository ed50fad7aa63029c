"""The options of ``nc-medfl run`` that say where a federation runs, and what they make."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nc_medfl.errors import UserError

if TYPE_CHECKING:
    from nc_medfl.federation.environments import Environment

Env = Annotated[
    str,
    typer.Option(
        "--env",
        help="Where to run: sim (FLARE's simulator), poc (FLARE's server and clients on this machine) or prod "
        "(a deployment, by an administrator's kit).",
    ),
]
Sites = Annotated[
    Path | None,
    typer.Option(help="Folder with SITE/site.yaml or SITE.yaml for each site, as 'partition' writes it (sim, poc)."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Sites that work at the same time (sim, poc; default: all).")]
Gpus = Annotated[
    str | None, typer.Option(metavar="0,1", help="Spread the sites over these devices, in turn (sim, poc).")
]
PocDir = Annotated[
    Path | None, typer.Option(help="Folder of the POC (poc). One that runs there is joined (default: within --out).")
]
KeepPoc = Annotated[bool, typer.Option("--keep-poc", help="Leave the POC running; 'nc-medfl stop' ends it (poc).")]
AdminKit = Annotated[Path | None, typer.Option(help="An administrator's startup kit (prod).")]
JobId = Annotated[
    str | None, typer.Option(help="Follow and fetch a job that was submitted before, by FLARE's number (prod).")
]


@dataclass(frozen=True)
class Options:
    """The options as given."""

    env: str = "sim"
    sites: Path | None = None
    threads: int | None = None
    gpus: str | None = None
    poc_dir: Path | None = None
    keep_poc: bool = False
    admin_kit: Path | None = None
    job_id: str | None = None


#: The environments that an option means something to.
_OF: dict[str, tuple[str, ...]] = {
    "sites": ("sim", "poc"),
    "threads": ("sim", "poc"),
    "gpus": ("sim", "poc"),
    "poc_dir": ("poc",),
    "keep_poc": ("poc",),
    "admin_kit": ("prod",),
    "job_id": ("prod",),
}
_NEEDED = {"sim": "sites", "poc": "sites", "prod": "admin_kit"}


def make_environment(options: Options, job: Path | None, out: Path) -> Environment:
    """The environment that the options describe, checked as far as it can be before anything is made.

    Args:
        options: as given.
        job: the job's folder, to be named in a message.
        out: the run folder, likewise.

    Raises:
        UserError: if an option is missing, or means nothing there.
    """
    from nc_medfl.federation.environments import Poc, Production, Simulator
    from nc_medfl.federation.environments.devices import check_gpus, parse_gpus

    _check(options)
    gpus = parse_gpus(options.gpus) if options.gpus else ()
    if gpus:
        import torch

        check_gpus(gpus, torch.cuda.device_count())
    if options.env == "sim":
        return Simulator(options.threads, gpus)
    if options.env == "poc":
        poc = Poc(options.poc_dir, options.keep_poc, options.threads, gpus)
        poc.check()
        return poc
    assert options.admin_kit is not None
    kit, folder = shlex.quote(str(options.admin_kit)), shlex.quote(str(out))
    fetch = f"nc-medfl run {shlex.quote(str(job))} --env prod --admin-kit {kit} --out {folder} --job-id {{job_id}}"
    production = Production(options.admin_kit, options.job_id, _ask_to_abort, fetch)
    production.check()
    return production


def _check(options: Options) -> None:
    if options.env not in _NEEDED:
        raise UserError(f"--env {options.env}: not known. Use sim, poc or prod.")
    for name, environments in _OF.items():
        if getattr(options, name) and options.env not in environments:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag}: means nothing to --env {options.env}. Leave it out, or use {environments[-1]}.")
    needed = _NEEDED[options.env]
    if getattr(options, needed) is None:
        what = "a folder with <site>/site.yaml for each site" if needed == "sites" else "an administrator's startup kit"
        raise UserError(f"--env {options.env}: --{needed.replace('_', '-')} is missing. Give {what}.")


def _ask_to_abort(job_id: str) -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return typer.confirm(f"Abort job {job_id} at the server, too?", default=False, err=True)
    except (typer.Abort, KeyboardInterrupt):
        return False
