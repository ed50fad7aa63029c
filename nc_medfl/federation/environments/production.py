"""Running a federation on a FLARE deployment: the server and the sites are elsewhere, and only numbers come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nc_medfl.errors import Stopped
from nc_medfl.federation.environments.base import Federation, OnEvent
from nc_medfl.federation.environments.submission import Submission, user_of
from nc_medfl.federation.kit import open_kit


@dataclass(frozen=True)
class Production:
    """A deployment, by an administrator's startup kit.

    Attributes:
        admin_kit: its folder.
        job_id: follow and fetch this job instead of submitting one.
        should_abort: asked when the user interrupts, with the job's number: abort the job, or let it go on?
        fetch_with: how to fetch the job later, for the user; ``{job_id}`` is filled in.
    """

    admin_kit: Path
    job_id: str | None = None
    should_abort: Callable[[str], bool] = lambda _job_id: False
    fetch_with: str = "nc-medfl run JOB --env prod --admin-kit KIT --out OUT --job-id {job_id}"

    @property
    def name(self) -> str:
        """As ``--env`` has it."""
        return "prod"

    def check(self) -> None:
        """Check the kit, before anything is made.

        Raises:
            UserError: if it is not an administrator's.
        """
        user_of(open_kit(self.admin_kit))

    def run(self, federation: Federation, on_event: OnEvent) -> Path:
        """Submit, follow and fetch; see :class:`Environment`.

        Raises:
            Stopped: if the user interrupts; the message says what becomes of the job.
        """
        submission = Submission(open_kit(self.admin_kit), job_id=self.job_id)
        try:
            return submission.run(federation, federation.workspace, on_event)
        except KeyboardInterrupt:
            raise Stopped(self._farewell(submission, federation)) from None

    def _farewell(self, submission: Submission, federation: Federation) -> str:
        job_id = submission.submitted
        if job_id is None:
            return "stopped; no job was submitted."
        if self.should_abort(job_id):
            submission.abort(federation, federation.workspace)
            return f"stopped; job {job_id} was aborted."
        return f"stopped following; job {job_id} goes on. Fetch it later with: {self.fetch_with.format(job_id=job_id)}"
