"""What the terminal shows of a federation while it runs: a line a round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nc_medfl.cli.console import console


def show(event: dict[str, Any], rounds: int, advance: Any) -> None:
    """Print an entry of the server's progress file, and move the progress bar.

    Args:
        event: the entry.
        rounds: of the job.
        advance: called with (done, total) rounds.
    """
    if event["event"] == "started":
        advance(event.get("resumed_after", 0), rounds)
    elif event["event"] == "round":
        advance(event["round"], rounds)
    for line in lines_of(event, rounds):
        console.print(line, markup=False, highlight=False)


def tell(event: dict[str, Any]) -> None:
    """Print an entry of what happens before the server has a word to say."""
    if event["event"] in _BEFORE:
        for line in lines_of(event, 0):
            console.print(line, markup=False, highlight=False)


def lines_of(event: dict[str, Any], rounds: int) -> list[str]:
    """What to print of an entry.

    Example:
        >>> lines_of({"event": "evaluating", "round": 2, "score": 0.71}, 3)
        ['chosen: round 2 (0.710); testing it at every site']
    """
    kind = event["event"]
    if kind in _BEFORE:
        return _BEFORE[kind](event)
    if kind == "started" and "resumed_after" in event:
        return [f"going on after round {event['resumed_after']} of {rounds}"]
    if kind == "round":
        return [*_model_line(event, event["round"] - 1), _training_line(event, rounds)]
    if kind == "repeat":
        return [f"round {event['round']}: too few sites answered ({_absent(event)}); trying again"]
    if kind == "validated":
        return _model_line(event, event["round"])
    if kind == "evaluating":
        return [f"chosen: round {event['round']} ({event['score']:.3f}); testing it at every site"]
    if kind == "finished" and _absent(event):
        return [f"no final test from: {_absent(event)}"]
    return []


def _status_line(event: dict[str, Any]) -> list[str]:
    return ["the job waits for the server to start it"] if event["status"] == "SUBMITTED" else []


#: What happens before the server has a word to say of the rounds.
_BEFORE: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "up": lambda event: [f"POC of {len(event['sites'])} sites is starting, on port {event['port']}"],
    "joined": lambda event: [f"joined the POC of {', '.join(event['sites'])}, on port {event['port']}"],
    "submitted": lambda event: [f"submitted job {event['job_id']}; connected: {', '.join(event['sites'])}"],
    "status": _status_line,
    "restart": lambda event: [f"{event['reason']} Submitting it again, to go on from its last finished round."],
}


def _model_line(event: dict[str, Any], number: int) -> list[str]:
    if event["score"] is None:
        return []
    nc1 = "" if event.get("nc1") is None else f", NC1 {event['nc1']:.3g}"
    return [f"round {number}: mean macro AUC on validation {event['score']:.3f}{nc1}"]


def _training_line(event: dict[str, Any], rounds: int) -> str:
    sites = event.get("sites", {})
    accepted = sum(outcome == "accepted" for outcome in sites.values())
    loss = "" if event.get("loss") is None else f", mean loss {event['loss']:.4g}"
    absent = f" ({_absent(event)})" if _absent(event) else ""
    return f"trained round {event['round']} of {rounds}: {accepted} of {len(sites)} sites{absent}{loss}"


def _absent(event: dict[str, Any]) -> str:
    present = ("accepted", "answered", "unused")
    return ", ".join(f"{site} {outcome}" for site, outcome in event.get("sites", {}).items() if outcome not in present)
