"""Talking to FLARE's server as an administrator: submit, follow, fetch, abort.

FLARE's errors become one line with a remedy. A connection that is lost on the way is made again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from nvflare.apis.job_def import JobMetaKey, RunStatus
from nvflare.fuel.flare_api import api_spec
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from nc_medfl.config import JobSettings
from nc_medfl.errors import RunFailed, UserError
from nc_medfl.federation import keys
from nc_medfl.federation.kit import Kit
from nc_medfl.federation.preflight.certificate import check_certificate, read_credentials
from nc_medfl.federation.preflight.server import check_server
from nc_medfl.federation.progress import Listener

T = TypeVar("T")

_LOGIN_SECONDS = 10.0
_RETRY_SECONDS = 3.0
#: Errors of a connection that may come back: the server restarts, the network is cut for a while.
_LOST = (api_spec.NoConnection, api_spec.SessionClosed, api_spec.NoReply, ConnectionError, TimeoutError)
_MISSES = (
    api_spec.JobNotRunning,
    api_spec.InvalidTarget,
    api_spec.NoReply,
    api_spec.InternalError,
    api_spec.AuthorizationError,
    api_spec.JobNotFound,
)


#: Our word for a job whose server was killed and started again. Seconds that it takes to be sure.
LOST, _LOST_SECONDS = "LOST", 10.0
#: How a job ends that has failed by itself: an error in it, or a server or client that died under it.
_FAILED = (
    LOST,
    RunStatus.FINISHED_EXECUTION_EXCEPTION.value,
    RunStatus.FINISHED_ABNORMAL.value,
    RunStatus.FAILED_TO_RUN.value,
)


@dataclass
class Link:
    """A session with the server that is opened anew when it was lost.

    Attributes:
        kit: the administrator's.
        user: as whom to log in.
        patience: seconds to try for, before the server counts as gone.
    """

    kit: Kit
    user: str
    patience: float = 600.0
    _session: Session | None = field(default=None, repr=False)

    def open(self, patience: float = 0.0) -> None:
        """Log in.

        Args:
            patience: seconds to try for while the server can't be reached.

        Raises:
            UserError: if the kit is wrong, the server can't be reached, or it refuses the login.
        """
        deadline = time.monotonic() + patience
        while self._session is None:
            try:
                self._session = new_secure_session(
                    self.user, str(self.kit.folder.resolve()), timeout=_LOGIN_SECONDS, auto_login_max_tries=1
                )
            except Exception as error:  # FLARE raises many kinds here; all mean that there is no session
                if time.monotonic() >= deadline or isinstance(error, api_spec.AuthorizationError):
                    raise UserError(why_no_session(self.kit, self.user, error)) from error
                time.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """Log out; nothing happens if that fails."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):
                session.close()

    def call(self, action: Callable[[Session], T]) -> T:
        """Do something in the session; if that is lost, in a new one.

        Raises:
            UserError: if no new session could be had.
        """
        deadline = time.monotonic() + self.patience
        while True:
            self.open(max(0.0, deadline - time.monotonic()))
            assert self._session is not None
            try:
                return action(self._session)
            except _LOST:
                self.close()
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_SECONDS)


def why_no_session(kit: Kit, user: str, error: Exception) -> str:
    """One line on why a login failed: the first thing on the way to the server that is wrong."""
    if isinstance(error, (api_spec.AuthenticationError, api_spec.AuthorizationError)):
        return f"{kit.folder}: the server refuses the login of {user} ({error}). Ask the coordinator for a new kit."
    credentials = read_credentials(kit)
    checks = [check_certificate(kit, credentials, datetime.now(timezone.utc)), *check_server(kit, credentials).results]
    for check in checks:
        if check.outcome == "failed":
            return f"{kit.folder}: {check.text} {check.remedy}"
    return (
        f"{kit.folder}: {kit.host}:{kit.port} answers, but gives {user} no session ({error}). Try again; see its log."
    )


def sites_connected(link: Link) -> list[str]:
    """Names of the sites whose clients the server knows."""
    return link.call(lambda session: sorted(str(client.name) for client in session.get_system_info().client_info))


def submit(link: Link, job: Path) -> str:
    """Submit a job folder; give FLARE's number of the job.

    Raises:
        UserError: if this administrator may not, or the server refuses the job.
    """
    token = uuid.uuid4().hex  # by it a submission that is repeated, since the answer was lost, is not a second job
    try:
        return link.call(lambda session: str(session.submit_job(str(job), token)))
    except api_spec.AuthorizationError as error:
        raise UserError(
            f"{link.user} may not submit jobs in {link.kit.project} (by its role in the federation). "
            "Ask the coordinator to submit it, or for a kit of role lead or project_admin."
        ) from error
    except (api_spec.InvalidJobDefinition, api_spec.InternalError) as error:
        raise UserError(f"{job.name}: the server refuses the job ({error}). See the server's log.") from error


def follow(link: Link, job_id: str, listener: Listener, on_status: Callable[[str, str], None], period: float) -> str:
    """Follow a job until it has ended.

    Args:
        link: to the server.
        job_id: FLARE's number of the job.
        listener: hears the rounds.
        on_status: called with FLARE's status, each time it changes, and when the job was submitted (ISO 8601).
        period: seconds between looks.

    Returns:
        The status it ended with; ``LOST`` for a job that went with its server.

    Raises:
        UserError: if the server doesn't know the job, or this administrator may not look at it.
    """
    last, lost_since = "", None
    while True:
        status, submitted = _status(link, job_id)
        if status != last:
            on_status(status, submitted.isoformat(timespec="seconds"))
            last = status
        if status.startswith("FINISHED"):
            return status
        told = _told(link, job_id) if status == RunStatus.RUNNING.value else None
        listener.hear(told)
        if status == RunStatus.RUNNING.value and told is None and _is_lost(link, job_id, submitted):
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since >= _LOST_SECONDS:
                return LOST
        else:
            lost_since = None
        time.sleep(period)


def _is_lost(link: Link, job_id: str, submitted: datetime) -> bool:
    """Whether the server was started after the job was submitted, and doesn't run it.

    FLARE 2.9.0 lists a job that a killed server was running as RUNNING for ever, and can't abort it.
    """
    info = link.call(lambda session: session.get_system_info())
    began = info.server_info.start_time
    running = {str(job.job_id) for job in info.job_info}
    return isinstance(began, int | float) and began > submitted.timestamp() and job_id not in running


def _status(link: Link, job_id: str) -> tuple[str, datetime]:
    try:
        meta = link.call(lambda session: session.get_job_meta(job_id))
    except api_spec.JobNotFound as error:
        raise UserError(
            f"--job-id {job_id}: the server knows no such job. Look it up with FLARE's list_jobs."
        ) from error
    except api_spec.AuthorizationError as error:
        raise UserError(f"{link.user} may not look at jobs in {link.kit.project}. Ask the coordinator.") from error
    submitted = datetime.fromtimestamp(float(meta[JobMetaKey.SUBMIT_TIME.value]), timezone.utc)
    return str(meta[JobMetaKey.STATUS.value]), submitted


def _told(link: Link, job_id: str) -> Any:
    try:
        stats = link.call(lambda session: session.show_stats(job_id, api_spec.TargetType.SERVER))
    except _MISSES:  # it begins, or it has just ended; the rest comes with the results
        return None
    server = stats.get("server") if isinstance(stats, dict) else None
    return server.get(keys.STATS_GROUP) if isinstance(server, dict) else None


def fetch(link: Link, job_id: str, folder: Path) -> Path | None:
    """Download what the server has of a job that has ended.

    Returns:
        The folder of its results, or None if the job has left none.

    Raises:
        UserError: if this administrator may not fetch it.
    """
    try:
        where = link.call(lambda session: session.download_job_result(job_id, str(folder)))
    except api_spec.AuthorizationError as error:
        raise UserError(
            f"{link.user} may not fetch job {job_id} (by its role in {link.kit.project}). Who submitted it may."
        ) from error
    except (api_spec.JobNotFound, api_spec.InternalError, RuntimeError) as error:
        raise RunFailed(
            f"job {job_id}: its results could not be fetched ({error}). Try again with --job-id."
        ) from error
    if not where:
        return None
    found = sorted(Path(where).rglob(f"{keys.RESULTS_FOLDER}/{keys.PROGRESS}"))
    return found[0].parent if found else None


def abort(link: Link, job_id: str) -> None:
    """Abort a job; nothing happens if it has ended, or the server is gone."""
    link.patience = 0.0
    with suppress(Exception):
        link.call(lambda session: session.abort_job(job_id))


def may_restart(status: str, results: Path | None) -> bool:
    """Whether a job that has ended this way could end well if it were submitted again.

    An abort is somebody's wish, and a user's mistake stays one.
    """
    if status not in _FAILED:
        return False
    path = results / keys.SERVER_ERROR if results else None
    if path is None or not path.is_file():
        return True
    return bool(json.loads(path.read_text(encoding="utf-8"))["kind"] != UserError.__name__)


def going_on(settings: JobSettings) -> JobSettings:
    """The settings of a job that goes on where one before it ended."""
    return settings.model_copy(update={"federation": settings.federation.model_copy(update={"resume": True})})


def failure(status: str, job_id: str) -> str:
    """What to say of a job that ended otherwise than well, when nobody has told more."""
    said = {
        RunStatus.FINISHED_ABORTED.value: "it was aborted.",
        LOST: (
            "the server was started again while it ran, and FLARE does not take it up. Run it with --resume, or set "
            "federation.restarts."
        ),
        RunStatus.FINISHED_CANT_SCHEDULE.value: (
            "the server could not start it: too few sites were ready, or they refuse it. Ask the sites to look at "
            "their logs, and to run 'nc-medfl check'."
        ),
    }
    return f"job {job_id}: {said.get(status, f'it ended with {status}. See the log of the server.')}"
