"""Work beside the sites' own: one thing at a time, and its errors are not lost."""

from __future__ import annotations

import threading

import pytest

from nc_medfl.federation.background import Background


def test_what_was_begun_is_done_when_it_is_finished_and_in_order() -> None:
    done: list[int] = []
    gate = threading.Event()
    with Background() as background:
        background.begin(lambda: (gate.wait(60), done.append(1))[1])
        assert not done
        gate.set()
        background.begin(lambda: done.append(2))
        assert done[:1] == [1]
    assert done == [1, 2]


def test_an_error_is_raised_once_where_it_is_waited_for() -> None:
    def full() -> None:
        raise OSError("no space left")

    background = Background()
    background.begin(full)
    with pytest.raises(OSError, match="no space left"):
        background.finish()
    background.finish()
    background.begin(full)
    with pytest.raises(OSError, match="no space left"):
        background.begin(full)


def test_an_error_at_the_end_is_not_lost_and_does_not_hide_another() -> None:
    def full() -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), Background() as background:
        background.begin(full)

    def broken() -> None:
        with Background() as background:
            background.begin(full)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        broken()
