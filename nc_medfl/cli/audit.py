"""``nc-medfl audit``: what a site sent, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nc_medfl.cli.console import emit
from nc_medfl.cli.options import AsJson
from nc_medfl.cli.tables import drawn
from nc_medfl.errors import UserError

_HEADER = ("time", "job", "event", "task", "round", "who or what", "bytes", "change", "epsilon")


def audit(
    trail: Annotated[
        Path, typer.Argument(metavar="FILE|STORE", help="An audit trail, or the store of a site that took part.")
    ],
    as_json: AsJson = False,
) -> None:
    """Print a site's audit trail: jobs, tasks, what was sent, privacy spent. A line that was altered ends in exit 2.

    Example: `nc-medfl audit sites/st_mary/store`
    """
    from nc_medfl.federation.audit import read_audit

    entries, broken = read_audit(trail)
    lines = drawn(_HEADER, [_cells(entry) for entry in entries]) if entries else ["no entry yet"]
    emit({"entries": entries, "first_altered_line": broken}, lines, as_json)
    if broken is not None:
        raise UserError(
            f"{trail}: line {broken} does not follow from the one before: the trail was altered there, or a crash cut "
            "it. Compare it with a backup."
        )


def _cells(entry: dict[str, Any]) -> list[str]:
    told = entry.get("meta", {}).get("nc_medfl.privacy")
    privacy = told if isinstance(told, dict) else {}
    what = {
        "job": f"{entry.get('submitter', '')}: {entry.get('settings', {}).get('name', '')}",
        "answered": f"{len(entry.get('tensors', {}))} tensors, {entry.get('numbers', 0)} numbers",
    }.get(str(entry.get("event")), str(entry.get("told", "")))
    change, epsilon = entry.get("change_norm"), privacy.get("epsilon")
    return [
        str(entry.get("time", "")),
        str(entry.get("job", "")),
        str(entry.get("event", "")),
        str(entry.get("task", "")),
        str(entry.get("round", "")),
        what,
        str(entry.get("bytes", "")),
        "" if change is None else f"{change:.4g}",
        "" if epsilon is None else f"{epsilon:.4g}",
    ]
