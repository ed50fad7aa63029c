"""Running a federation in FLARE's simulator: every site a process on this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nc_medfl.errors import RunFailed
from nc_medfl.federation import keys
from nc_medfl.federation.environments.base import (
    FEW_ARENAS,
    Child,
    Federation,
    OnEvent,
    has_shell_characters,
    raise_failure,
    threads_for,
)
from nc_medfl.federation.environments.devices import settle_sites
from nc_medfl.federation.turns import turns_environment

_CORES = os.cpu_count() or 1
#: Seconds that a site waits for its turn at fewer cores: one that hangs, or works for long, keeps nobody out.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Simulator:
    """FLARE's simulator.

    Attributes:
        threads: sites that have a process at the same time; None for all, of which as many work at a time as there are
            cores: while some train, others send and receive.
        gpus: devices to spread the sites over; none leaves that to the sites' settings.
    """

    threads: int | None = None
    gpus: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As ``--env`` has it."""
        return "sim"

    def run(self, federation: Federation, on_event: OnEvent) -> Path:
        """Run a federation until it ends; see :class:`Environment`."""
        federation.workspace.mkdir(parents=True, exist_ok=True)
        root = workspace = federation.workspace.resolve()
        # Stopped, FLARE leaves the job's folder among the temporary files; here they are ours to remove.
        with tempfile.TemporaryDirectory(prefix="nc_medfl-", ignore_cleanup_errors=True) as scratch:
            if has_shell_characters(root):
                root = Path(scratch) / "workspace"
                root.mkdir()
            code = self._child(federation, root, Path(scratch)).run(on_event)
            if root != workspace:
                shutil.copytree(root, workspace, dirs_exist_ok=True)
        results = _results_folder(federation.workspace, federation.settings.name)
        if code != 0 or not (results / keys.SUMMARY).is_file():
            log = federation.workspace / "flare.log"
            raise_failure(results, [federation.workspace], log)
            _raise_slow_start(log)
            raise RunFailed(f"the simulator ended with code {code} before the federation did. See {log}.")
        return results

    def _child(self, federation: Federation, root: Path, scratch: Path) -> Child:
        sites = federation.sites
        spec = {
            "settings": federation.settings.model_dump(mode="json"),
            "sites": list(sites),
            "workspace": str(root),
            "job_folder": str(federation.job_folder.resolve()) if federation.job_folder else None,
            # FLARE refuses more threads than sites.
            "threads": min(self.threads or len(sites), len(sites)),
        }
        folder = settle_sites(federation.here, root / "sites", self.gpus) if self.gpus else federation.here
        environment = dict(os.environ)
        environment[keys.ENV_SITES_DIR] = str(folder.resolve())
        environment.pop(keys.ENV_SITE_CONFIG, None)
        environment[keys.ENV_STATE_DIR] = str((federation.state or federation.workspace / "state").resolve())
        environment["TMPDIR"] = str(scratch)
        environment.setdefault("OMP_NUM_THREADS", threads_for(len(sites), self.threads))
        environment.setdefault(*FEW_ARENAS)
        if not self.threads and len(sites) > _CORES and not self.gpus:
            environment |= turns_environment(scratch / "turns", _CORES, _PATIENCE)
        return Child(
            module="nc_medfl.federation.environments.simulator_process",
            spec=spec,
            folder=root,
            log=root / "flare.log",
            environment=environment,
            events=_results_folder(root, federation.settings.name) / keys.PROGRESS,
        )


def _raise_slow_start(log: Path) -> None:
    """Say it, if FLARE gave up waiting for a site's process: it waits for a minute, and can't be told otherwise.

    Raises:
        RunFailed: if that is what the log says.
    """
    if log.is_file() and "connection to the child process" in log.read_text(encoding="utf-8", errors="replace"):
        raise RunFailed(
            "a site's process had not started after a minute, and FLARE's simulator waits no longer. Have fewer start "
            f"at the same time (--threads), or end other programs. Whole log: {log}."
        )


def _results_folder(workspace: Path, job: str) -> Path:
    return workspace / job / "server" / "simulate_job" / keys.RESULTS_FOLDER
