"""Turns of sites that share a machine, between real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from nc_medfl.federation.turns import turns_environment

#: Takes a turn, says so, and gives it back when its input ends.
TAKER = """
import sys
from nc_medfl.federation.turns import turn
with turn():
    print("in", flush=True)
    sys.stdin.read()
"""


class Site:
    def __init__(self, folder: Path, threads: int | None, patience: float | None = None) -> None:
        environment = {**os.environ, **turns_environment(folder, threads, patience)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def is_in(self, seconds: float) -> bool:
        import select

        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return bool(ready)

    def leave(self) -> None:
        self.process.communicate(timeout=20)


def test_so_many_sites_work_at_once_and_no_more(tmp_path: Path) -> None:
    first, second = Site(tmp_path / "turns", 2), Site(tmp_path / "turns", 2)
    assert first.is_in(20)
    assert second.is_in(20)
    third = Site(tmp_path / "turns", 2)
    assert not third.is_in(2)
    first.leave()
    assert third.is_in(20)
    second.leave()
    third.leave()


def test_a_site_that_is_killed_gives_its_turn_back(tmp_path: Path) -> None:
    first = Site(tmp_path, 1)
    assert first.is_in(20)
    second = Site(tmp_path, 1)
    assert not second.is_in(1)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(20)
    assert second.is_in(20)
    second.leave()


def test_a_site_that_hangs_keeps_others_out_for_no_longer_than_they_have_patience(tmp_path: Path) -> None:
    first = Site(tmp_path, 1)
    assert first.is_in(20)
    second = Site(tmp_path, 1, patience=3)
    assert not second.is_in(1)
    assert second.is_in(20)
    first.leave()
    second.leave()


def test_without_a_limit_nobody_waits(tmp_path: Path) -> None:
    assert turns_environment(tmp_path, None) == {}
    sites = [Site(tmp_path, None) for _ in range(2)]
    assert all(site.is_in(20) for site in sites)
    for site in sites:
        site.leave()
