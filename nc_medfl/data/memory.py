"""Memory: kept where the same large blocks are taken over and over, given back after steps that took a lot."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_blocks(limit: int = 2**28) -> None:
    """Have the C library keep freed blocks of up to ``limit`` bytes for the next picture (glibc; else no effect).

    By default it hands each freed picture back to the system and has a new one mapped and zeroed page by page,
    which takes a sixth of the time of decoding.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, limit)
            library.mallopt(_TRIM_THRESHOLD, 2 * limit)


def plain_tables() -> None:
    """Have tables' memory come from the C library, which gives it back when told; Arrow's own pool doesn't."""
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())


def give_back() -> None:
    """Give memory that is no longer used back to the system (glibc; else no effect)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
