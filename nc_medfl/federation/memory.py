"""Giving memory back to the system between rounds."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def give_back() -> None:
    """Hand memory that is free to the system; nothing happens where the C library can't (other than glibc).

    A round's buffers come and go in dozens of FLARE's threads, and glibc keeps what each has freed: without this, some
    hundred MB over a hundred rounds, of which nothing is in use. It takes a few milliseconds.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
