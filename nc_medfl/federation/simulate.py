"""Running a federation in FLARE's simulator: every site a process on this machine.

FLARE runs in a child process of its own session, so that its output goes to a log file instead of the
user's screen, and so that stopping the command stops all that it started.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nc_medfl.config import JobSettings
from nc_medfl.errors import RunFailed, UserError
from nc_medfl.federation import keys
from nc_medfl.federation.processes import family, stop

OnEvent = Callable[[dict[str, Any]], None]
_POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Simulation:
    """A federation to be simulated.

    Attributes:
        settings: the job's.
        sites: names of the sites.
        sites_folder: where their ``site.yaml`` files are.
        workspace: an empty folder for FLARE's own files and the server's results.
        job_folder: the job whose ``build_recipe`` makes the recipe; None for the package's own.
        threads: sites that work at the same time; None for all.
        state: where server and sites keep what a resumed run goes on from; None for the workspace.
    """

    settings: JobSettings
    sites: tuple[str, ...]
    sites_folder: Path
    workspace: Path
    job_folder: Path | None = None
    threads: int | None = None
    state: Path | None = None


def simulate(simulation: Simulation, on_event: OnEvent) -> Path:
    """Run a federation in the simulator until it ends.

    Args:
        simulation: what to run.
        on_event: called with each entry of the server's progress file, as it comes.

    Returns:
        The folder with the server's results (tables, models).

    Raises:
        RunFailed: if FLARE or a site failed; the message is that of the site, if one told.
        UserError: the same, where what failed was a user's mistake at the site.
    """
    simulation.workspace.mkdir(parents=True, exist_ok=True)
    # FLARE passes its workspace through a command line that is split at blanks.
    root = simulation.workspace.resolve()
    if any(c.isspace() or c in "'\"\\" for c in str(root)):
        root = Path(tempfile.mkdtemp(prefix="nc_medfl-"))
    try:
        code = _run_child(simulation, root, on_event)
        if root != simulation.workspace.resolve():
            shutil.copytree(root, simulation.workspace, dirs_exist_ok=True)
    finally:
        if root != simulation.workspace.resolve():
            shutil.rmtree(root, ignore_errors=True)
    results = _results_folder(simulation.workspace, simulation.settings.name)
    if code != 0 or not (results / keys.SUMMARY).is_file():
        raise_server_error(results)
        _raise_failure(simulation.workspace, code)
    return results


def _results_folder(workspace: Path, job: str) -> Path:
    return workspace / job / "server" / "simulate_job" / keys.RESULTS_FOLDER


def _run_child(simulation: Simulation, root: Path, on_event: OnEvent) -> int:
    spec = root / "simulation.json"
    content = {
        "settings": simulation.settings.model_dump(mode="json"),
        "sites": list(simulation.sites),
        "workspace": str(root),
        "job_folder": str(simulation.job_folder.resolve()) if simulation.job_folder else None,
        "threads": simulation.threads,
    }
    spec.write_text(json.dumps(content), encoding="utf-8")
    environment = dict(os.environ)
    environment[keys.ENV_SITES_DIR] = str(simulation.sites_folder.resolve())
    environment.pop(keys.ENV_SITE_CONFIG, None)
    environment[keys.ENV_STATE_DIR] = str((simulation.state or simulation.workspace / "state").resolve())
    # Sites share this machine's cores; without a limit each would start a thread for every core.
    busy = min(len(simulation.sites), simulation.threads or len(simulation.sites))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // busy)))
    command = [sys.executable, "-m", "nc_medfl.federation.simulation_process", str(spec)]
    with (root / "flare.log").open("wb") as log:
        process = subprocess.Popen(  # our own module, arguments we made
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        started: set[psutil.Process] = set()
        try:
            _follow(process, _results_folder(root, simulation.settings.name) / keys.PROGRESS, on_event, started)
        finally:
            stop({*started, *family(process.pid)})
    return process.wait()


def _follow(process: subprocess.Popen[bytes], progress: Path, on_event: OnEvent, started: set[psutil.Process]) -> None:
    """Pass on progress until the child ends; note what it starts, since its end hides its children."""
    seen = 0
    while True:
        ended = process.poll() is not None
        started.update(family(process.pid))
        if progress.is_file():
            lines = progress.read_text(encoding="utf-8").splitlines(keepends=True)
            complete = [line for line in lines if line.endswith("\n")]
            for line in complete[seen:]:
                on_event(json.loads(line))
            seen = len(complete)
        if ended:
            return
        time.sleep(_POLL_SECONDS)


def raise_server_error(results: Path) -> None:
    """Say why the server ended the job, if it did.

    Raises:
        UserError: if it was a user's mistake.
        RunFailed: if it was something else.
    """
    path = results / keys.SERVER_ERROR
    if not path.is_file():
        return
    error = json.loads(path.read_text(encoding="utf-8"))
    if error["kind"] == UserError.__name__:
        raise UserError(error["message"])
    raise RunFailed(error["message"])


def _raise_failure(workspace: Path, code: int) -> None:
    for path in sorted(workspace.rglob(keys.CLIENT_ERROR)):
        error = json.loads(path.read_text(encoding="utf-8"))
        if error["kind"] == UserError.__name__:
            raise UserError(f"{error['site']}: {error['message']}")
        raise RunFailed(
            f"{error['site']}: {error['task']} failed with {error['kind']}: {error['message']} "
            f"(whole log: {workspace / 'flare.log'})"
        )
    raise RunFailed(f"the simulator ended with code {code} before the federation did. See {workspace / 'flare.log'}.")
