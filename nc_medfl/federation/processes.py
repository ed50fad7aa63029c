"""Ending what was started: whole families of processes, whatever session they are in."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import psutil

_PR_SET_CHILD_SUBREAPER = 36
#: Seconds within which two readings of one process's start lie.
_SAME_MOMENT = 1.0


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

    def end() -> None:
        own = psutil.Process()
        stop(own.children(recursive=True))
        own.kill()

    _when_gone(lambda: os.getppid() == direct and all(process.is_running() for process in watched), end, period)


def ask_to_end_with_parent(period: float = 1.0) -> None:
    """Watch, in a thread, for this process's parent to die, and then send this process a SIGTERM, to end in order."""
    parent = os.getppid()
    _when_gone(lambda: os.getppid() == parent, lambda: os.kill(os.getpid(), signal.SIGTERM), period)


def _when_gone(is_there: Callable[[], bool], action: Callable[[], None], period: float) -> None:
    def watch() -> None:
        while is_there():
            time.sleep(period)
        action()

    threading.Thread(target=watch, daemon=True).start()


def adopt_orphans() -> None:
    """Have processes below this one that lose their parent become this one's children, where the system can (Linux).

    Then :func:`family` finds everything that this process has started, however it was started.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def identity(process: psutil.Process) -> dict[str, float]:
    """What tells a process from a later one with the same number."""
    return {"pid": process.pid, "created": process.create_time()}


def find(identity: Mapping[str, float]) -> psutil.Process | None:
    """The process with an :func:`identity`, if it still runs."""
    try:
        process = psutil.Process(int(identity["pid"]))
        same = abs(process.create_time() - identity["created"]) < _SAME_MOMENT
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return None


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except psutil.NoSuchProcess:
        return
