"""A site's audit trail: who ran which job here, and what was sent. Append-only JSON lines, mode 0600, no identifiers.

Each line carries the SHA-256 of the line before, so that a line that was changed, taken out or put in shows. Cutting
off the end does not; copy the file elsewhere from time to time if that matters.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from nc_medfl import __version__
from nc_medfl.data.private import FOLDER, open_private, private_folder
from nc_medfl.errors import UserError
from nc_medfl.federation import keys
from nc_medfl.federation.tasks import Answer

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

AUDIT = "audit.jsonl"
NOT_TOLD = "not told"
_START = "0" * 64


def audit_file(store: Path, named: Path | None) -> Path:
    """The site's audit file: the one named in its settings, or ``site_private/audit.jsonl`` in the store."""
    return named or store / FOLDER / AUDIT


@dataclass(frozen=True)
class AuditTrail:
    """One job's writing end of an audit file.

    Attributes:
        path: the file; it is made if it is missing.
        about: of the job, on every line: ``site``, ``job``.
    """

    path: Path
    about: Mapping[str, str]

    def add(self, event: str, **content: Any) -> None:
        """Append one line, on the disk when this returns.

        Raises:
            UserError: if it can't be written; nothing may then leave the site.
        """
        try:
            with _appending(self.path) as stream:
                entry = {
                    "schema_version": 1,
                    "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "event": event,
                    **self.about,
                    **content,
                    "previous": _digest(_last_line(self.path)),
                }
                stream.write((json.dumps(entry, sort_keys=True) + "\n").encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise UserError(
                f"{self.path}: the audit trail cannot be written ({error.strerror}), so nothing is sent. "
                "Make room or give rights there, or name another file in privacy.audit."
            ) from error


def sent(answer: Answer, received: Mapping[str, Tensor]) -> dict[str, Any]:
    """What an answer holds, without its values: names, types, shapes, counts, norms and bytes.

    Args:
        answer: as it goes to the server.
        received: the model it answers.
    """
    entry: dict[str, Any] = {"bytes": 0}
    params = answer.params
    if params is not None:
        entry["tensors"] = {name: [str(v.dtype).removeprefix("torch."), list(v.shape)] for name, v in params.items()}
        entry["numbers"] = sum(value.numel() for value in params.values())
        entry["bytes"] += sum(value.numel() * value.element_size() for value in params.values())
        floating = {name: value for name, value in params.items() if value.is_floating_point()}
        entry["norm"] = _norm(floating.values())
        entry["change_norm"] = _norm(value - received[name] for name, value in floating.items() if name in received)
    meta: dict[str, Any] = {}
    for name, value in answer.meta.items():
        size, meta[name] = _described(name, value)
        entry["bytes"] += size
    return entry | {"meta": meta}


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(torch.linalg.vector_norm(value, dtype=torch.float64)) ** 2 for value in tensors))


def _described(name: str, value: Any) -> tuple[int, Any]:
    if isinstance(value, np.ndarray):
        told = ~np.isnan(value)
        norm = math.sqrt(float(np.square(value[told]).sum()))
        return value.nbytes, {"shape": list(value.shape), "withheld": int((~told).sum()), "norm": norm}
    text = value if isinstance(value, str) else json.dumps(value)
    if name == keys.ROWS:
        return len(text.encode()), {"rows": len(json.loads(text))}
    if name == keys.TABLES:
        return len(text.encode()), {"rows": {table: len(rows) for table, rows in json.loads(text).items()}}
    if name == keys.LOSSES:
        return len(text.encode()), {"losses": sorted(json.loads(text))}
    if name == keys.HISTOGRAMS:
        content = json.loads(text)
        runs = {split: sum(len(kind) for kinds in part.values() for kind in kinds) for split, part in _splits(content)}
        return len(text.encode()), {"runs": runs}
    return len(text.encode()), value


def _splits(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in content.items() if isinstance(part, dict)]


def started(meta: Mapping[str, Any], settings: Mapping[str, Any], privacy: Mapping[str, Any]) -> dict[str, Any]:
    """The first entry of a job: who, with which settings, under which privacy settings.

    Args:
        meta: of the job, as FLARE hands it to its clients.
        settings: of the job, as JSON values.
        privacy: of the site, as JSON values without a path.
    """
    who = {
        name: _word(meta.get(key))
        for name, key in (
            ("submitter", "submitter_name"),
            ("organisation", "submitter_org"),
            ("role", "submitter_role"),
        )
    }
    return {**who, "settings": dict(settings), "privacy": dict(privacy), "package": __version__}


def _word(value: Any) -> str:
    return value[:200] if isinstance(value, str) and value else NOT_TOLD


def read_audit(path: Path) -> tuple[list[dict[str, Any]], int | None]:
    """Every entry of an audit file, or of a store's, and the first line that doesn't follow from the one before.

    Raises:
        UserError: if there is no such file, or it isn't an audit trail.
    """
    if path.is_dir():
        path = audit_file(path, None)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: no audit trail there ({error.strerror}). Give the file, or the store of a site that took part."
        ) from error
    entries: list[dict[str, Any]] = []
    broken: int | None = None
    before = b""
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            follows = entry["previous"] == _digest(before)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not an entry of an audit trail. Restore a backup.") from error
        if not follows and broken is None:
            broken = number
        entries.append(entry)
        before = line
    return entries, broken


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest() if line else _START


@contextmanager
def _appending(path: Path) -> Iterator[BinaryIO]:
    """The file open for appending, held against other jobs at this site, and ending in a whole line."""
    if path.parent.name == FOLDER:
        private_folder(path.parent.parent)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    with open_private(path, append=True) as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            stream.write(b"\n")  # a kill cut the last line short; it stays as it is, and shows
            stream.flush()
        yield stream


def _last_line(path: Path) -> bytes:
    lines = path.read_bytes().splitlines()
    return lines[-1] if lines else b""
