"""Running a federation in a POC: FLARE's server and a client for every site, as in the field, on this machine.

A POC lives in a folder and is held by a process of its own (:mod:`poc_process`), which ends when the command that
owns it ends, however that ends. One that is kept has no owner; a later run in the same folder joins it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nc_medfl.config import SiteConfig, load_site_config
from nc_medfl.data.store import write_json
from nc_medfl.errors import NcMedflError, RunFailed, UserError
from nc_medfl.federation import keys
from nc_medfl.federation.environments import poc_folder
from nc_medfl.federation.environments.base import (
    FEW_ARENAS,
    Federation,
    OnEvent,
    has_shell_characters,
    start,
    threads_for,
)
from nc_medfl.federation.environments.devices import deal_out
from nc_medfl.federation.environments.submission import Submission
from nc_medfl.federation.kit import open_kit
from nc_medfl.federation.site import site_files
from nc_medfl.federation.site_setup import carry_out, plan_site
from nc_medfl.federation.turns import turns_environment

#: Many sites on few cores take their time to start; one that dies meanwhile is seen at once.
_START_SECONDS = 300.0
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Poc:
    """FLARE's proof of concept.

    Attributes:
        folder: where it lives; None for the run's workspace, and then it is never kept.
        keep: leave it running when the run has ended.
        threads: sites that work at the same time; None for all.
        gpus: devices to spread the sites over; none leaves that to the sites' settings.
    """

    folder: Path | None = None
    keep: bool = False
    threads: int | None = None
    gpus: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As ``--env`` has it."""
        return "poc"

    def check(self) -> None:
        """Check what can be checked before anything is made.

        Raises:
            UserError: if the POC can't be kept, or FLARE couldn't live in its folder.
        """
        if self.keep and self.folder is None:
            raise UserError("--keep-poc: a POC that is kept needs a folder of its own. Name it with --poc-dir.")
        if self.folder is not None and has_shell_characters(self.folder.resolve()):
            raise UserError(f"--poc-dir {self.folder}: FLARE can't live under a path with blanks. Name another.")

    def run(self, federation: Federation, on_event: OnEvent) -> Path:
        """Start or join the POC, submit, follow, fetch, and stop it; see :class:`Environment`."""
        self.check()
        with (
            _place(self.folder, federation.workspace) as folder,
            poc_folder.used(folder),
            self._running(folder, federation, on_event) as poc,
        ):
            return self._submit(poc, federation, on_event)

    def _submit(self, poc: poc_folder.Running, federation: Federation, on_event: OnEvent) -> Path:
        submission = Submission(
            open_kit(poc.kit(poc_folder.ADMIN)),
            sites={site: poc.kit(site) for site in poc.sites},
            start_patience=_START_SECONDS,
            patience=_PATIENCE_SECONDS,
            abort_on_end=self.keep,  # else its server ends anyway
            server_lives=lambda: poc_folder.running(poc.folder) is not None,
        )
        try:
            return submission.run(federation, federation.workspace / "session", on_event)
        except NcMedflError as error:
            if poc_folder.running(poc.folder) is None:
                log = poc.folder / poc_folder.HOLDER_LOG
                message = f"the POC's server ended before the job did. Go on with --resume; see {log}."
                raise RunFailed(message) from error
            raise

    @contextmanager
    def _running(self, folder: Path, federation: Federation, on_event: OnEvent) -> Iterator[poc_folder.Running]:
        """A POC for the run, which is stopped afterwards if it isn't kept, or if it hasn't come up."""
        configs = {name: load_site_config(path) for name, path in site_files(federation.here).items()}
        configs = deal_out(configs, self.gpus)
        poc = poc_folder.running(folder)
        kept = self.keep and poc is not None
        if poc:
            _settle(poc, configs)
        poc_folder.own(folder)
        try:
            if poc is None:
                poc = self._start(folder, federation, configs)
                kept = self.keep
                on_event({"event": "up", "sites": list(poc.sites), "port": poc.port})
            else:
                on_event({"event": "joined", "sites": list(poc.sites), "port": poc.port})
            yield poc
        finally:
            if kept:
                poc_folder.disown(folder)
            else:
                poc_folder.end(folder)

    def _start(self, folder: Path, federation: Federation, configs: dict[str, SiteConfig]) -> poc_folder.Running:
        poc_folder.end(folder)
        poc_folder.clear(folder)
        poc_folder.own(folder)
        environment = turns_environment(folder / "turns", self.threads)
        environment[FEW_ARENAS[0]] = os.environ.get(*FEW_ARENAS)
        environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", threads_for(len(configs), self.threads))
        if federation.state and self.folder is None:  # else the POC's own folder holds it, for the runs to come
            environment[keys.ENV_STATE_DIR] = str(federation.state.resolve())
        spec: dict[str, Any] = {
            "folder": str(folder),
            "environment": environment,
            "sites": {name: config.model_dump(mode="json", exclude_defaults=True) for name, config in configs.items()},
        }
        write_json(folder / "spec.json", spec)
        log = folder / poc_folder.HOLDER_LOG
        inherited = {k: v for k, v in os.environ.items() if k not in (keys.ENV_SITE_CONFIG, keys.ENV_SITES_DIR)}
        with log.open("ab") as stream:
            process = start(
                "nc_medfl.federation.environments.poc_process", str(folder / "spec.json"), stream, inherited
            )
        poc = poc_folder.wait_for_start(folder, psutil.Process(process.pid), _START_SECONDS)
        if poc is None:
            raise RunFailed(f"the POC did not start. See {log}.")
        return poc


def _settle(poc: poc_folder.Running, configs: dict[str, SiteConfig]) -> None:
    """Give the sites of a running POC their settings; they read them when a job starts.

    Raises:
        UserError: if the POC has other sites.
    """
    if set(poc.sites) != set(configs):
        raise UserError(
            f"{poc.folder}: the POC that runs there has the sites {', '.join(poc.sites)}, and --sites has "
            f"{', '.join(sorted(configs))}. Stop it with 'nc-medfl stop {poc.folder}', or name another folder."
        )
    for name, config in configs.items():
        carry_out(plan_site(open_kit(poc.kit(name)), config, forbid_custom_code=False, replace=True))


@contextmanager
def _place(folder: Path | None, workspace: Path) -> Iterator[Path]:
    """The folder for a POC: the one that is named, or one in the run's workspace, where FLARE can live there."""
    if folder is not None:
        yield folder.resolve()
        return
    own = workspace.resolve() / "poc"
    if not has_shell_characters(own):
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="nc_medfl-") as elsewhere:
        try:
            yield Path(elsewhere)
        finally:
            # The logs are wanted; the keys of a POC that is gone are not.
            shutil.copytree(elsewhere, own, ignore=shutil.ignore_patterns("startup", "*.sock"), dirs_exist_ok=True)
