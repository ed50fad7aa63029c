"""A new state of a store is made beside the old one and put in its place in one go.

All files of the new state are written and on disk before anything of the old one is touched. Then a mark is
set, and each file is renamed to its place, the manifest last. A run that is killed before the mark leaves the
old state; one that is killed after it is finished by :func:`finish_swap`, at the start of the next.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from nc_medfl.data.private import FOLDER, WORK, private_folder, private_subfolder
from nc_medfl.data.store import INFO, MANIFEST

_NEXT = "next"
_READY = "next.ready"
_FORMER = "next.former"


def begin_generation(store: Path) -> Path:
    """An empty folder for the new state of a store; what is written there stands where it is to stand in the store.

    Files of ``site_private`` go to ``site_private`` in it.
    """
    work = private_subfolder(private_folder(store) / WORK)
    fresh = work / _NEXT
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    private_subfolder(fresh / FOLDER)
    return fresh


def swap_generation(store: Path) -> None:
    """Put the new state, now complete, in the place of the old one; files that it doesn't have are kept."""
    work = store / FOLDER / WORK
    for folder, _, _ in os.walk(work / _NEXT):
        _to_disk(Path(folder))
    (work / _READY).touch(mode=0o600)
    _to_disk(work)
    finish_swap(store)


def finish_swap(store: Path) -> bool:
    """Finish a swap that was begun, if one was.

    Returns:
        Whether there was one.
    """
    work = store / FOLDER / WORK
    if not (work / _READY).exists():
        return False
    fresh = work / _NEXT
    entries = _entries(fresh)
    if MANIFEST in entries:
        # A reader must not find the old manifest beside new shards.
        (store / MANIFEST).unlink(missing_ok=True)
    for name in entries:
        _put(fresh / name, store / name, work / _FORMER)
    _to_disk(store / FOLDER)
    _to_disk(store)
    (work / _READY).unlink()
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(work / _FORMER, ignore_errors=True)
    return True


def _entries(fresh: Path) -> list[str]:
    """What is to be put in place, the description and the manifest last."""
    public = sorted(path.name for path in fresh.glob("*") if path.name != FOLDER)
    private = sorted(f"{FOLDER}/{path.name}" for path in (fresh / FOLDER).glob("*"))
    return sorted((*private, *public), key=lambda name: (name == MANIFEST, name == INFO))


def _put(source: Path, target: Path, former: Path) -> None:
    if source.is_dir() and target.exists():
        shutil.rmtree(former, ignore_errors=True)
        target.rename(former)
    source.replace(target)


def _to_disk(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows doesn't open folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
