"""A made archive of radiographs, and preparing it as a user does, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from nc_medfl.data.settings import PrepareSettings

FILES = 120
WORK = "site_private/work"


def settings(archive: Path, out: Path, **changes: Any) -> PrepareSettings:
    base = {
        "source": "dicom",
        "images": archive / "images",
        "labels": archive / "labels.csv",
        "out": out,
        "salt_file": archive / "salt",
        "size": 64,
        "workers": 0,
    }
    return PrepareSettings(**{**base, **changes})


def command(archive: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "nc_medfl.cli.main", "prepare", "--images", str(archive / "images")),
        *("--labels", str(archive / "labels.csv"), "--out", str(out), "--salt-file", str(archive / "salt")),
        *("--size", "64", "--workers", "2", *more),
    ]


def start(archive: Path, out: Path, *more: str, **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(archive, out, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **how,
    )


def kill_group(process: subprocess.Popen[str], how: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)


def contents(store: Path) -> dict[str, bytes]:
    """All files but work in progress, which a complete store doesn't have, and the pages that the command adds."""
    return {
        name: path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and not (name := path.relative_to(store).as_posix()).startswith((WORK, "quality."))
    }
