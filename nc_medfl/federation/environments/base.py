"""What the ways to run have in common: their interface, and the child process that FLARE lives in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from nc_medfl.config import JobSettings
from nc_medfl.errors import RunFailed, SiteFailed, UserError
from nc_medfl.federation import keys
from nc_medfl.federation.processes import family, stop

OnEvent = Callable[[dict[str, Any]], None]
_POLL_SECONDS = 0.3
#: FLARE starts a hundred threads, which come and go: a timer a stream, for a minute. glibc has up to eight heaps a
#: core for them, and something stays free in each (see :mod:`nc_medfl.federation.memory`). Two do.
FEW_ARENAS = ("MALLOC_ARENA_MAX", "2")


@dataclass(frozen=True)
class Federation:
    """A job and the sites it is for.

    Attributes:
        settings: the job's.
        workspace: a folder for FLARE's own files and the server's results.
        job_folder: the job whose ``build_recipe`` makes the recipe; None for the package's own.
        sites: names of the sites, where they are on this machine; in production whoever is connected takes part.
        sites_folder: where their ``site.yaml`` files are.
        state: where server and sites keep what a resumed run goes on from; None for the workspace.
    """

    settings: JobSettings
    workspace: Path
    job_folder: Path | None = None
    sites: tuple[str, ...] = ()
    sites_folder: Path | None = None
    state: Path | None = None

    @property
    def here(self) -> Path:
        """The folder of the sites, where there must be one, with as many as the job needs.

        Raises:
            UserError: if there is none, or too few are in it.
        """
        if self.sites_folder is None:
            raise UserError("--sites is missing. Give a folder with <site>/site.yaml for each site.")
        needed = self.settings.federation.min_sites or 0
        if needed > len(self.sites) > 0:
            raise UserError(
                f"federation.min_sites: {needed} sites are asked for, and there are {len(self.sites)}. Ask for fewer."
            )
        return self.sites_folder


class Environment(Protocol):
    """A way to run a federation."""

    @property
    def name(self) -> str:
        """As ``--env`` has it."""
        ...

    def run(self, federation: Federation, on_event: OnEvent) -> Path:
        """Run a federation until it ends.

        Args:
            federation: what to run.
            on_event: called with each entry of the server's progress file, as it comes, and with what happens before.

        Returns:
            The folder with the server's results (tables, models).

        Raises:
            RunFailed: if FLARE or a site failed; the message is that of the site, where it is known here.
            UserError: the same, where what failed was a user's mistake.
        """
        ...


@dataclass(frozen=True)
class Child:
    """A module of ours that runs FLARE in a process and session of its own.

    Attributes:
        module: its name.
        spec: what it is told, as JSON values; it gets the path of a file with it.
        folder: for that file.
        log: takes its output.
        environment: its environment variables.
        events: file of JSON lines to follow.
        grace: seconds that it is given to end, once it is told to.
    """

    module: str
    spec: Mapping[str, Any]
    folder: Path
    log: Path
    environment: Mapping[str, str]
    events: Path
    grace: float = 5.0

    def run(self, on_event: OnEvent, while_true: Callable[[], bool] = lambda: True) -> int:
        """Run it to its end, until something is no longer true, or this process is interrupted.

        Nothing that it started is left.

        Returns:
            Its exit code.
        """
        spec = self.folder / f"{self.module.rpartition('.')[2]}.json"
        spec.write_text(json.dumps(self.spec), encoding="utf-8")
        with self.log.open("ab") as log:
            process = start(self.module, str(spec), log, self.environment)
        started: set[psutil.Process] = set()
        try:
            _follow(process, self.events, on_event, started, while_true)
        finally:
            stop({*started, *family(process.pid)}, self.grace)
        return process.wait()


def start(module: str, argument: str, log: Any, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a module of ours in a session of its own, with its output in a log."""
    return subprocess.Popen(  # our own module, arguments we made
        [sys.executable, "-m", module, argument],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )


def _follow(
    process: subprocess.Popen[bytes],
    events: Path,
    on_event: OnEvent,
    started: set[psutil.Process],
    while_true: Callable[[], bool],
) -> None:
    """Pass on events until the child ends, or is to; note what it starts, since its end hides its children."""
    seen = 0
    while True:
        ended = process.poll() is not None or not while_true()
        started.update(family(process.pid))
        if events.is_file():
            lines = events.read_text(encoding="utf-8").splitlines(keepends=True)
            complete = [line for line in lines if line.endswith("\n")]
            for line in complete[seen:]:
                on_event(json.loads(line))
            seen = len(complete)
        if ended:
            return
        time.sleep(_POLL_SECONDS)


def has_shell_characters(path: Path) -> bool:
    """Whether FLARE would break a path apart: it passes paths through command lines that are split at blanks."""
    return any(c.isspace() or c in "'\"\\$`" for c in str(path))


def threads_for(sites: int, at_once: int | None) -> str:
    """CPU threads for each of the sites that share this machine; without a limit each would take every core."""
    busy = min(sites, at_once or sites)
    return str(max(1, (os.cpu_count() or 1) // busy))


def raise_failure(results: Path | None, workspaces: Iterable[Path], log: Path) -> None:
    """Say why a job ended before its time, as far as server or sites have told.

    The server's word comes first, but where it only knows that a site failed, which may say more itself.

    Args:
        results: the server's, if there are any.
        workspaces: below which the sites of this machine have left their words; none in production.
        log: to be named.

    Raises:
        UserError: if it was a user's mistake.
        RunFailed: if it was something else.
    """
    path = results / keys.SERVER_ERROR if results else None
    error = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else None
    if error and error["kind"] != SiteFailed.__name__:
        raise (UserError if error["kind"] == UserError.__name__ else RunFailed)(error["message"])
    for workspace in workspaces:
        _raise_site_error(workspace, log)
    if error:
        raise SiteFailed(error["message"])


def _raise_site_error(workspace: Path, log: Path) -> None:
    for path in sorted(workspace.rglob(keys.CLIENT_ERROR)):
        error = json.loads(path.read_text(encoding="utf-8"))
        if error["kind"] == UserError.__name__:
            raise UserError(f"{error['site']}: {error['message']}")
        raise RunFailed(
            f"{error['site']}: {error['task']} failed with {error['kind']}: {error['message']} (whole log: {log})"
        )
