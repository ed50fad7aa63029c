"""How a federation's progress gets out of the server: by FLARE's ``show_stats``.

Whoever may look at a job in FLARE's console may see it: ``show_stats JOB_ID server``. It holds what the progress
file holds: rounds, names of sites, outcomes, losses, scores.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.widgets.info_collector import InfoCollector

from nc_medfl.federation import keys

#: Name of the component in a job.
PROGRESS_ID = "nc_medfl_progress"
#: So many of the newest entries are told; whoever looks every few seconds misses none.
_TOLD = 20


class ProgressTeller(FLComponent):  # type: ignore[misc]  # nvflare ships no types
    """Adds the newest entries of the job's progress file to FLARE's statistics of the job."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Answer FLARE's question for statistics."""
        if event_type != InfoCollector.EVENT_TYPE_GET_STATS:
            return
        collector = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
        if collector is not None:
            run_dir = Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id()))
            collector.set_info(keys.STATS_GROUP, told(run_dir / keys.RESULTS_FOLDER / keys.PROGRESS))


def told(progress: Path) -> dict[str, Any]:
    """The newest entries of a progress file, as text, and the number of the first of them."""
    if not progress.is_file():
        return {"first": 0, "events": []}
    lines = [line for line in progress.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    first = max(0, len(lines) - _TOLD)
    return {"first": first, "events": [line.strip() for line in lines[first:]]}


class Listener:
    """Passes on each entry once, whichever way it comes.

    Args:
        on_event: takes an entry.
    """

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        self._seen = 0

    def hear(self, told: Any) -> None:
        """Take what the server tells; anything else is left alone, since it comes from another machine."""
        if not isinstance(told, dict) or not isinstance(told.get("events"), list):
            return
        first = int(told.get("first", 0))
        for number, line in enumerate(told["events"], start=first):
            if number >= self._seen:
                self._pass_on(line)
        self._seen = max(self._seen, first + len(told["events"]))

    def read(self, progress: Path) -> None:
        """Take the rest from the file, once it is here."""
        if progress.is_file():
            lines = progress.read_text(encoding="utf-8").splitlines()
            self.hear({"first": 0, "events": lines})

    def _pass_on(self, line: Any) -> None:
        try:
            event = json.loads(line)
        except (TypeError, ValueError):
            return
        if isinstance(event, dict) and "event" in event:
            self._on_event(event)
