"""Running a federation in a POC: FLARE's server and a client for every site, as in the field, on this machine.

A POC lives in a folder and is held by a process of its own (:mod:`poc_process`), which ends when the command that
owns it ends, however that ends. One that is kept has no owner; a later run in the same folder joins it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nc_medfl.config import load_site_config
from nc_medfl.data.store import write_json
from nc_medfl.errors import RunFailed, UserError
from nc_medfl.federation import keys
from nc_medfl.federation.environments import poc_folder
from nc_medfl.federation.environments.base import (
    Federation,
    OnEvent,
    has_shell_characters,
    raise_site_error,
    start,
    threads_for,
)
from nc_medfl.federation.environments.devices import deal_out
from nc_medfl.federation.environments.submission import Submission
from nc_medfl.federation.kit import open_kit
from nc_medfl.federation.processes import family, find, identity, stop
from nc_medfl.federation.site import site_files
from nc_medfl.federation.site_setup import site_yaml
from nc_medfl.federation.turns import turns_environment

_START_SECONDS = 120.0
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.2


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
        with _place(self.folder, federation.workspace) as folder, poc_folder.used(folder):
            with self._running(folder, federation, on_event) as poc:
                return self._submit(poc, federation, on_event)

    def _submit(self, poc: poc_folder.Running, federation: Federation, on_event: OnEvent) -> Path:
        submission = Submission(
            open_kit(poc.admin_kit),
            wanted=tuple(poc.sites),
            start_patience=_START_SECONDS,
            patience=_PATIENCE_SECONDS,
            abort_on_end=True,
        )
        try:
            return submission.run(federation, federation.workspace / "session", on_event)
        except RunFailed:
            for site in poc.sites:
                home = poc.kit(site) / str(submission.submitted)
                raise_site_error(home, home / "log.txt")
            raise

    @contextmanager
    def _running(self, folder: Path, federation: Federation, on_event: OnEvent) -> Iterator[poc_folder.Running]:
        """A POC for the run, and what becomes of it afterwards."""
        poc = poc_folder.running(folder)
        poc_folder.own(folder)
        try:
            if poc:
                on_event({"event": "joined", "folder": str(folder)})
                self._rejoin(poc, federation)
            else:
                poc = self._start(folder, federation)
                on_event({"event": "up", "sites": list(poc.sites), "port": poc.port})
        except BaseException:
            if not (self.keep and poc):
                poc_folder.end(folder)
            raise
        try:
            yield poc
        finally:
            if self.keep:
                poc_folder.disown(folder)
            else:
                poc_folder.end(folder)
