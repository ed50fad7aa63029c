"""Ending what was started: whole families of processes, whatever session they are in."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable

import psutil


def family(pid: int) -> list[psutil.Process]:
    """A process and everything below it; empty if it is gone."""
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def stop(processes: Iterable[psutil.Process], grace: float = 5.0) -> None:
    """End processes, with a moment to end by themselves first."""
    everyone = list(processes)
    for process in everyone:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(everyone, timeout=grace)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=grace)


def end_with_parent(period: float = 1.0, parent: int | None = None) -> None:
    """Watch, in a thread, for a process to die, and then end this process and its family.

    Args:
        period: seconds between looks.
        parent: the process to watch; None for this one's parent.

    A parent that is killed outright cannot stop what it started; FLARE's processes live in sessions of their
    own and would go on.
    """
    direct = os.getppid()
    watched = family(parent)[-1:] if parent is not None and parent != direct else []

    def is_there() -> bool:
        return os.getppid() == direct and all(process.is_running() for process in watched)

    def watch() -> None:
        while is_there():
            time.sleep(period)
        own = psutil.Process()
        stop(own.children(recursive=True))
        own.kill()

    threading.Thread(target=watch, daemon=True).start()


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except psutil.NoSuchProcess:
        return
