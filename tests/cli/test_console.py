"""Progress: rate, time left and outcomes, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nc_medfl.cli import console as consoles


@pytest.fixture
def paper(monkeypatch):
    """What is printed where, and a clock of our own."""

    def lay(terminal: bool) -> io.StringIO:
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=160, highlight=False, soft_wrap=True)
        monkeypatch.setattr(consoles, "console", console)
        return out

    return lay


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(consoles.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_ten_seconds_and_a_last_one(paper, clock):
    out = paper(terminal=False)
    with consoles.progress_bar("Reading") as progress:
        progress(100, 400, {"ok": 90, "modality": 10})
        for second in range(1, 21):
            clock[0] = float(second)
            progress(100 + 15 * second, 400, {"ok": 90 + 15 * second, "modality": 10})
    # 15 files a second; those of an earlier run don't count.
    assert out.getvalue().splitlines() == [
        "Reading: 250 of 400; 15/s, 0:00:10 left; modality 10, ok 240",
        "Reading: 400 of 400; 15/s; modality 10, ok 390",
    ]


def test_a_log_has_no_escape_codes_and_nothing_before_the_first_step(paper):
    out = paper(terminal=False)
    with consoles.progress_bar("Reading"):
        pass
    assert out.getvalue() == ""
    with consoles.progress_bar("Reading") as progress:
        progress(1, 2)
    assert out.getvalue() == "Reading: 1 of 2\n"


def test_a_terminal_gets_a_bar_with_outcomes_and_none_before_an_early_error(paper):
    out = paper(terminal=True)
    with pytest.raises(ValueError, match="early"), consoles.progress_bar("Reading"):
        raise ValueError("early")
    assert out.getvalue() == ""
    with consoles.progress_bar("Reading") as progress:
        progress(0, 4, {})
        progress(4, 4, {"ok": 3, "body_part": 1})
    assert "4/4" in out.getvalue()
    assert "body_part 1, ok 3" in out.getvalue()
