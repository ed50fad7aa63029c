"""Which runs used a store, and whose images were in it then: what a patient who withdraws may ask.

A site notes it in ``site_private/`` when a run opens its store: ``runs.jsonl``, a line a run, and in ``used/`` the
patient keys and splits of the manifest as it was. It never leaves the site.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nc_medfl.data.private import FOLDER, private_folder, write_private
from nc_medfl.data.store import MANIFEST, Store

RUNS = "runs.jsonl"
USED = "used"
_RUN_JSON = "run.json"


@dataclass(frozen=True)
class RunUse:
    """A run that used, or may have used, somebody's images.

    Attributes:
        name: of the job.
        job: the federation's number of the run; empty where only a run folder tells of it.
        started: when, ISO 8601.
        folder: its run folder, as given; empty where none was given that fits.
        splits: in which splits the images stood; empty where that isn't known.
        certain: whether the store's own notes say so. Else only the preparation's settings fit.
    """

    name: str
    job: str
    started: str
    folder: str
    splits: tuple[str, ...]
    certain: bool


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of a job's settings as ``run.json`` has them: by it a note and a run folder are matched."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def record_use(store: Store, *, job: str, name: str, settings: Mapping[str, Any]) -> None:
    """Note that a run uses a store as it is now; noted once a run.

    Args:
        store: opened for the run.
        job: the federation's number of the run.
        name: of the job.
        settings: of the job, as JSON values.

    Raises:
        OSError: if ``site_private`` can't be written.
    """
    state = hashlib.sha256((store.folder / MANIFEST).read_bytes()).hexdigest()
    if any((note.get("job"), note.get("manifest")) == (job, state) for note in _notes(store.folder)):
        return
    folder = private_folder(store.folder)
    (folder / USED).mkdir(mode=0o700, exist_ok=True)
    used = folder / USED / f"{state}.csv"
    if not used.is_file():
        pairs = sorted({*zip(store.manifest["patient_key"], store.manifest["split"].fillna(""), strict=True)})
        write_private(used, "".join(f"{key},{split}\n" for key, split in pairs).encode())
    note = {
        "schema_version": 1,
        "job": job,
        "name": name,
        "settings": settings_digest(settings),
        "manifest": state,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    # One short write, so that lines of two runs don't mix.
    handle = os.open(folder / RUNS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, (json.dumps(note, sort_keys=True) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def runs_that_used(
    store: Path, patients: frozenset[str], settings_hash: str, folders: Sequence[tuple[Path, Mapping[str, Any]]] = ()
) -> list[RunUse]:
    """Runs that used a patient's images, as far as this site can tell, oldest first.

    Args:
        store: the store's folder.
        patients: their keys.
        settings_hash: of the store's preparation; a run folder without a note here may have used the store if a
            site of it was prepared so.
        folders: run folders with the content of their ``run.json`` (:func:`run_folders`).
    """
    found, noted = [], set()
    for note in _notes(store):
        mine = [number for number, (_, run) in enumerate(folders) if _same_run(note, run)]
        noted.update(mine)
        splits = _splits_of(store, str(note["manifest"]), patients)
        if splits:
            folder = str(folders[mine[0]][0]) if mine else ""
            found.append(RunUse(str(note["name"]), str(note["job"]), str(note["started"]), folder, splits, True))
    for number, (path, run) in enumerate(folders):
        prepared = dict(run.get("fingerprints") or {})
        if number not in noted and settings_hash in [v for k, v in prepared.items() if k.startswith("preparation:")]:
            found.append(RunUse(str(run.get("name", "")), "", str(run.get("started", "")), str(path), (), False))
    return sorted(found, key=lambda use: (use.started, use.job, use.folder))


def run_folders(roots: Iterable[Path]) -> list[tuple[Path, Mapping[str, Any]]]:
    """Run folders at and below some folders, those whose ``run.json`` can be read."""
    found: list[tuple[Path, Mapping[str, Any]]] = []
    for root in roots:
        for path in sorted(root.rglob(_RUN_JSON)):
            try:
                run = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(run, dict) and "fingerprints" in run:
                found.append((path.parent, run))
    return found


def _same_run(note: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    started, ended = str(run.get("started") or ""), str(run.get("ended") or "9999")
    same_settings = note.get("settings") == settings_digest(dict(run.get("settings") or {}))
    # ISO 8601 in UTC sorts as it runs.
    return same_settings and started <= str(note.get("started")) <= ended


def _splits_of(store: Path, state: str, patients: frozenset[str]) -> tuple[str, ...]:
    path = store / FOLDER / USED / f"{state}.csv"
    if not path.is_file():
        return ()
    rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
    found = {row[1] for row in rows if len(row) == 2 and row[0] in patients}
    return tuple(split for split in ("train", "val", "test", "") if split in found)


def _notes(store: Path) -> list[dict[str, Any]]:
    path = store / FOLDER / RUNS
    if not path.is_file():
        return []
    notes = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            note = json.loads(line)
        except ValueError:
            continue
        if isinstance(note, dict) and {"job", "name", "manifest", "started", "settings"} <= note.keys():
            notes.append(note)
    return notes
