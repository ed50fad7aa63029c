"""The child process that submits a job to a FLARE server, follows it and fetches what comes of it.

``python -m nc_medfl.federation.environments.session_process SPEC.json``

It writes what happens to a file of JSON lines. Told to end (SIGTERM, or its parent is gone), it aborts the job where
the spec says ``abort_on_end``, and else leaves it to go on.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nc_medfl.errors import NcMedflError, UserError
from nc_medfl.federation.processes import ask_to_end_with_parent

if TYPE_CHECKING:
    from nc_medfl.config import JobSettings

_PERIOD = 1.0
_SITES_PERIOD = 1.0
#: Seconds that a federation which begins again waits for all the sites it had, before it makes do with fewer.
_REJOIN_SECONDS = 60.0


def main(spec_file: str) -> None:
    """Do what the spec says, and write down how it went."""
    _end.install()
    ask_to_end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    # nvflare.recipe reads sys.argv when it is imported, so it must not see ours.
    sys.argv = sys.argv[:1]
    note = _Notes(Path(spec["events"]))
    try:
        _run(spec, note)
    except NcMedflError as error:
        note(event="error", kind=type(error).__name__, message=str(error))
    except Exception as error:
        logging.exception("it failed")
        note(event="error", kind=type(error).__name__, message=f"{type(error).__name__}: {error}")
    finally:
        # FLARE's threads would hold the process for a while.
        sys.stdout.flush()
        os._exit(0)


class _End:
    """Ends this process when it is told to, but not while something must be done whole."""

    def __init__(self) -> None:
        self._asked = self._busy = False

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, _signal: int, _frame: Any) -> None:
        self._asked = True
        if not self._busy:
            raise SystemExit(0)

    @contextmanager
    def later(self) -> Iterator[None]:
        """Wait with the end until this is done."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self._asked:
            raise SystemExit(0)


_end = _End()


class _Notes:
    """Writes events, one a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.job_id: str | None = None

    def __call__(self, **event: Any) -> None:
        self.job_id = event.get("job_id", self.job_id)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(event) + "\n")


def _run(spec: dict[str, Any], note: _Notes) -> None:
    from nc_medfl.federation.environments import session
    from nc_medfl.federation.kit import open_kit

    link = session.Link(open_kit(spec["kit"]), spec["user"], spec["patience"])
    link.open(spec["start_patience"])
    if spec["abort"]:
        session.abort(link, spec["abort"])
        return
    try:
        _to_the_end(spec, link, note)
    except SystemExit:
        job_id = note.job_id or spec["job_id"]
        if job_id and spec["abort_on_end"]:
            session.abort(link, job_id)
        raise
    finally:
        link.close()


def _to_the_end(spec: dict[str, Any], link: Any, note: _Notes) -> None:
    """Submit the job and follow it; where it fails and may be restarted, submit it again."""
    from nc_medfl.config import JobSettings
    from nc_medfl.federation.environments import session
    from nc_medfl.federation.environments.job_files import least_sites
    from nc_medfl.settings import parse

    job_id: str | None = spec["job_id"]
    if job_id is not None:
        _follow(spec, link, note, job_id)
        return
    settings = parse(JobSettings, spec["settings"], where="job settings")
    sites = _wait_for_sites(link, spec["sites"], spec["start_patience"])
    for left in range(settings.federation.restarts, -1, -1):
        job_id = _submit(spec, settings, sites, link, note)
        status, results = _follow(spec, link, note, job_id, may_restart=left > 0)
        if not (left and session.may_restart(status, results)):
            return
        note(event="restart", reason=session.failure(status, job_id))
        settings = session.going_on(settings)
        sites = _wait_for_sites(link, sites, _REJOIN_SECONDS, least=least_sites(settings))


def _follow(
    spec: dict[str, Any], link: Any, note: _Notes, job_id: str, may_restart: bool = False
) -> tuple[str, Path | None]:
    """Follow a job to its end and fetch what is left of it; say so, unless it is to be submitted again."""
    from nc_medfl.federation.environments import session
    from nc_medfl.federation.progress import Listener

    listener = Listener(lambda event: note(**event))

    def on_status(status: str, submitted: str) -> None:
        note(event="status", status=status, job_id=job_id, submitted=submitted)

    status = session.follow(link, job_id, listener, on_status, _PERIOD)
    # A job that went with its server has left its rounds there, and no results.
    results = None if status == session.LOST else session.fetch(link, job_id, Path(spec["folder"]))
    if results:
        listener.read(results / "progress.jsonl")
    if not (may_restart and session.may_restart(status, results)):
        failure = session.failure(status, job_id)
        note(event="fetched", status=status, results=str(results) if results else None, failure=failure)
    return status, results


def _submit(spec: dict[str, Any], settings: JobSettings, sites: list[str], link: Any, note: _Notes) -> str:
    from nc_medfl.federation.environments import session
    from nc_medfl.federation.environments.job_files import least_sites, write_job

    if len(sites) < least_sites(settings):
        there = f"{len(sites)} connected ({', '.join(sites)})" if sites else "none is connected"
        raise UserError(
            f"{settings.name}: it needs {least_sites(settings)} sites, and {there}. "
            "Have the others start their clients, or set federation.min_sites."
        )
    with tempfile.TemporaryDirectory(prefix="nc_medfl-") as scratch:
        job_folder = Path(spec["job_folder"]) if spec["job_folder"] else None
        job = write_job(settings, job_folder, Path(scratch), min_clients=len(sites))
        with _end.later():
            job_id: str = session.submit(link, job)
            note(event="submitted", job_id=job_id, sites=sites)
    return job_id


def _wait_for_sites(link: Any, wanted: list[str], seconds: float, least: int | None = None) -> list[str]:
    """Sites that are connected, once those that are wanted are.

    Where no other has come for ``seconds``, ``least`` of them are enough.
    """
    from nc_medfl.federation.environments import session

    known: set[str] = set()
    deadline = time.monotonic() + seconds
    while True:
        sites: list[str] = session.sites_connected(link)
        missing = sorted(set(wanted) - set(sites))
        if not known.issuperset(sites):
            known.update(sites)
            deadline = time.monotonic() + seconds
        if not missing:
            return sites
        if time.monotonic() > deadline:
            if least is not None and len(sites) >= least:
                return sites
            raise UserError(f"{', '.join(missing)}: not connected to the server after {seconds:.0f} s. See its log.")
        time.sleep(_SITES_PERIOD)


if __name__ == "__main__":
    main(sys.argv[1])
