"""Turns: how many of the sites that share a machine work at the same time."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nc_medfl.federation import keys

_POLL_SECONDS = 0.02


def turns_environment(folder: Path, threads: int | None, patience: float | None = None) -> dict[str, str]:
    """The environment variable by which sites of one machine know how many of them may work at the same time.

    Args:
        folder: for the turns' locks.
        threads: sites that may work at the same time; None for all.
        patience: seconds after which a site no longer waits; None if it always does.
    """
    return {keys.ENV_TURNS: f"{threads}:{patience or math.inf}:{folder}"} if threads else {}


@contextmanager
def turn() -> Iterator[None]:
    """Wait until this site may work, where the sites of this machine take turns; let another one in afterwards.

    A turn is a lock on a file, so that a site that is killed gives it back.
    """
    count, _, rest = os.environ.get(keys.ENV_TURNS, "").partition(":")
    patience, _, folder = rest.partition(":")
    if not folder:
        yield
        return
    end = time.monotonic() + float(patience)
    Path(folder).mkdir(parents=True, exist_ok=True)
    handles = [os.open(Path(folder) / f"turn-{n}", os.O_RDWR | os.O_CREAT, 0o600) for n in range(int(count))]
    try:
        while not any(_taken(handle) for handle in handles) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        for handle in handles:
            os.close(handle)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
