"""A job given to a running FLARE server, from submission to results, in a child process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nc_medfl.errors import NcMedflError, RunFailed, UserError
from nc_medfl.federation import keys
from nc_medfl.federation.environments.base import Child, Federation, OnEvent, raise_failure
from nc_medfl.federation.kit import Kit
from nc_medfl.federation.preflight.certificate import common_name, read_credentials

COMPLETED = "FINISHED:COMPLETED"
#: Seconds that aborting a job may take.
_ABORT_SECONDS = 15.0


def user_of(kit: Kit) -> str:
    """As whom an administrator's kit logs in.

    Raises:
        UserError: if it is another's kit, or damaged.
    """
    if kit.role != "admin":
        raise UserError(f"{kit.folder}: the kit of a {kit.role}. Give --admin-kit an administrator's.")
    return kit.name or common_name(read_credentials(kit).certificate.subject)


@dataclass
class Submission:
    """What to ask of a server.

    Attributes:
        kit: an administrator's.
        sites: sites to wait for before the job is submitted, and their workspaces on this machine.
        start_patience: seconds for the server and those sites to be there.
        patience: seconds to try for when the server is lost on the way.
        job_id: follow and fetch this job instead of submitting one.
        abort_on_end: abort the job when this command ends before it does.
        server_lives: whether there is still a server to talk to, where this machine can tell.
        submitted: the number of the job, once it is known.
    """

    kit: Kit
    sites: Mapping[str, Path] = field(default_factory=dict)
    start_patience: float = 0.0
    patience: float = 600.0
    job_id: str | None = None
    abort_on_end: bool = False
    server_lives: Callable[[], bool] = lambda: True
    submitted: str | None = None
    _outcome: dict[str, Any] = field(default_factory=dict, repr=False)

    def run(self, federation: Federation, folder: Path, on_event: OnEvent) -> Path:
        """Submit the job (or take up ``job_id``), follow it, fetch its results.

        Args:
            federation: the job.
            folder: an empty one for the child's files and the results.
            on_event: as for :class:`Environment`; ``submitted`` and ``status`` come before the progress.

        Returns:
            The folder with the server's results.

        Raises:
            UserError: if the kit, the login or the job was refused.
            RunFailed: if the job ended otherwise than well.
        """
        self.submitted = self.job_id
        child = self._child(federation, folder)
        code = child.run(lambda event: self._take(event, on_event), self.server_lives)
        return self._results(code, child.log)

    def abort(self, federation: Federation, folder: Path) -> None:
        """Abort the job that was submitted."""
        self._child(federation, folder, abort=self.submitted).run(lambda _event: None)

    def _take(self, event: dict[str, Any], on_event: OnEvent) -> None:
        if event["event"] in ("error", "fetched"):
            self._outcome = event
            return
        self.submitted = event.get("job_id", self.submitted)
        on_event(event)

    def _results(self, code: int, log: Path) -> Path:
        outcome = self._outcome
        if not outcome:
            raise RunFailed(f"the process that talks to the server ended with code {code}. See {log}.")
        if outcome["event"] == "error":
            kinds: dict[str, type[NcMedflError]] = {UserError.__name__: UserError}
            message = str(outcome["message"])
            known = outcome["kind"] in (UserError.__name__, RunFailed.__name__)
            raise kinds.get(outcome["kind"], RunFailed)(message if known else f"{message}. See {log}.")
        results = Path(outcome["results"]) if outcome["results"] else None
        if results and outcome["status"] == COMPLETED and (results / keys.SUMMARY).is_file():
            return results
        raise_failure(results, [kit / str(self.submitted) for kit in self.sites.values()], log)
        raise RunFailed(outcome["failure"])

    def _child(self, federation: Federation, folder: Path, abort: str | None = None) -> Child:
        folder.mkdir(parents=True, exist_ok=True)
        spec = {
            "kit": str(self.kit.folder.resolve()),
            "user": user_of(self.kit),
            "patience": self.patience,
            "start_patience": self.start_patience,
            "sites": list(self.sites),
            "job_id": self.job_id,
            "abort": abort,
            "abort_on_end": self.abort_on_end,
            "settings": federation.settings.model_dump(mode="json"),
            "job_folder": str(federation.job_folder.resolve()) if federation.job_folder else None,
            "folder": str(folder.resolve()),
            "events": str((folder / "events.jsonl").resolve()),
        }
        return Child(
            module="nc_medfl.federation.environments.session_process",
            spec=spec,
            folder=folder,
            log=folder / "session.log",
            environment=dict(os.environ),
            events=folder / "events.jsonl",
            grace=_ABORT_SECONDS,
        )
