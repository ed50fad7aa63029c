"""Giving memory back to the system between rounds."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress


def set_aside() -> None:
    """Leave what is there now, mostly what was imported, out of every later search for circles.

    To be called before the first message comes: what is set aside stays for good.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Hand memory that nobody uses to the system; on other C libraries than glibc, to the process alone.

    What FLARE keeps of a message refers to itself, so that a round's model stays until Python happens to look for such
    circles, which may be seventy rounds later: hence a search, which takes a third of a second, or some milliseconds
    after :func:`set_aside`.

    A round's buffers come and go in dozens of FLARE's threads, and glibc keeps what each has freed: without this, some
    hundred MB over a hundred rounds, of which nothing is in use. It takes a few milliseconds.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
