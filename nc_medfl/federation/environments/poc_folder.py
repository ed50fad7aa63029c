"""The folder of a POC: what is in it, who uses it, and whether it runs.

``poc.json`` tells of the process that holds the POC, ``owner.json`` of the command that it must not outlive (absent
for one that is kept), ``lock`` is held while a run uses it. The folder holds private keys, and is its user's alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nc_medfl.data.store import write_json
from nc_medfl.errors import UserError
from nc_medfl.federation.processes import family, find, identity, stop

#: FLARE's own files; a project of this name, so that kits lie in ``flare/<PROJECT>/prod_00``.
FLARE, PROJECT = "flare", "poc"
ADMIN = "admin@poc.local"
HOLDER_LOG = "poc.log"
LOCK = "lock"
_STATE, _OWNER = "poc.json", "owner.json"
_STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Running:
    """A POC that runs.

    Attributes:
        folder: its.
        sites: its sites.
        port: of its server.
        holder: the process that holds it.
    """

    folder: Path
    sites: tuple[str, ...]
    port: int
    holder: psutil.Process

    def kit(self, name: str) -> Path:
        """The startup kit, and workspace, of a participant."""
        return kit_folder(self.folder, name)


def kit_folder(folder: Path, name: str) -> Path:
    """Where a participant of the POC in a folder has its startup kit."""
    return folder / FLARE / PROJECT / "prod_00" / name


def announce(folder: Path, sites: list[str], port: int) -> None:
    """Say that this process holds the POC in a folder, and that it has started."""
    write_json(folder / _STATE, {**identity(psutil.Process()), "sites": sites, "port": port})


def running(folder: Path) -> Running | None:
    """The POC in a folder, if one runs there."""
    state = _read(folder / _STATE)
    holder = find(state)
    return Running(folder, tuple(state["sites"]), int(state["port"]), holder) if holder else None


@contextmanager
def used(folder: Path) -> Iterator[None]:
    """Keep other runs out of a POC's folder, which is made if it is missing.

    Raises:
        UserError: if another run uses it, something else is in it, or it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / LOCK).is_file():
            raise UserError(f"{folder}: not empty, and no POC. Name another folder.")
        folder.chmod(0o700)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Name another folder.") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another run uses this POC. Wait for it, or name another folder.") from error
        yield
    finally:
        os.close(handle)


def clear(folder: Path) -> None:
    """Remove all but the lock: what is left of a POC that no longer runs."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def own(folder: Path) -> None:
    """Have the POC end when this process ends, however it ends."""
    write_json(folder / _OWNER, identity(psutil.Process()))


def disown(folder: Path) -> None:
    """Let the POC outlive this process."""
    (folder / _OWNER).unlink(missing_ok=True)


def is_orphan(folder: Path) -> bool:
    """Whether the POC has an owner that is gone, or its folder is gone."""
    owner = folder / _OWNER
    if not folder.is_dir():
        return True
    return owner.is_file() and find(_read(owner)) is None


def end(folder: Path) -> bool:
    """Stop the POC in a folder and everything that it started; say whether there was one."""
    poc = running(folder)
    if poc:
        below = family(poc.holder.pid)
        with suppress(psutil.NoSuchProcess):
            poc.holder.terminate()  # it stops what it has started, and ends
        psutil.wait_procs([poc.holder], timeout=_STOP_SECONDS)
        stop(below)
    # Whatever the holder lost sight of has the folder on its command line, as every process of FLARE's has.
    left = _processes_under(folder / FLARE)
    stop(left)
    for name in (_STATE, _OWNER):
        (folder / name).unlink(missing_ok=True)
    return bool(poc or left)


def _processes_under(folder: Path) -> list[psutil.Process]:
    prefix = f"{folder.resolve()}/"
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"{word}/".startswith(prefix) for word in process.info["cmdline"] or [])
    ]


def wait_for_start(folder: Path, holder: psutil.Process | None, seconds: float) -> Running | None:
    """The POC once it runs; None if its holder ended, or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        poc = running(folder)
        if poc:
            return poc
        if holder is None or not holder.is_running() or holder.status() == psutil.STATUS_ZOMBIE:
            return None
        time.sleep(0.1)
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content
