"""The lines that the terminal shows of a federation."""

from __future__ import annotations

from typing import Any

import pytest

from nc_medfl.cli.progress import lines_of

ROUND = {
    "event": "round",
    "round": 3,
    "rounds": 5,
    "score": 0.7123,
    "nc1": 2.345,
    "loss": 0.41234,
    "sites": {"a": "accepted", "b": "late", "c": "accepted"},
}


def without(*names: str) -> dict[str, Any]:
    return {key: value for key, value in ROUND.items() if key not in names}


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (
            ROUND,
            [
                "round 2: mean macro AUC on validation 0.712, NC1 2.35",
                "trained round 3 of 5: 2 of 3 sites (b late), mean loss 0.4123",
            ],
        ),
        (without("nc1", "loss"), ["round 2: mean macro AUC on validation 0.712", ROUND["round"]]),
        ({**ROUND, "score": None}, ["trained round 3 of 5: 2 of 3 sites (b late), mean loss 0.4123"]),
        (
            {"event": "repeat", "round": 2, "sites": {"a": "unused", "b": "missing"}},
            ["round 2: too few sites answered (b missing); trying again"],
        ),
        ({"event": "started", "rounds": 5}, []),
        ({"event": "started", "rounds": 5, "resumed_after": 2}, ["going on after round 2 of 5"]),
        ({"event": "validated", "round": 5, "score": 0.8}, ["round 5: mean macro AUC on validation 0.800"]),
        ({"event": "finished", "sites": {"a": "answered", "b": "late"}}, ["no final test from: b late"]),
        ({"event": "finished", "sites": {"a": "answered"}}, []),
    ],
)
def test_what_is_shown(event: dict[str, Any], lines: list[Any]) -> None:
    found = lines_of(event, 5)
    assert len(found) == len(lines)
    for line, expected in zip(found, lines, strict=True):
        assert line == expected or (isinstance(expected, int) and f"round {expected} of 5" in line)
