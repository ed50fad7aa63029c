"""One writer at a time: the operating system's lock on a store, which ends with the process that holds it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nc_medfl.data.private import open_private, private_folder
from nc_medfl.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"


@contextmanager
def store_lock(folder: Path) -> Iterator[None]:
    """Hold a store for writing. The lock ends with the block, or with the process however that ends.

    Args:
        folder: the store; ``site_private/lock`` in it is the (empty) file that is locked.

    Raises:
        UserError: if another process holds it, or the file system knows no locks.
        OSError: if the folder can't be written.
    """
    with open_private(private_folder(folder) / LOCK, append=True) as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{folder}: another run is at work on this store. Wait for its end, or stop it, then run again."
                ) from error
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                raise UserError(
                    f"{folder}: its file system has no locks, so two runs could spoil each other. Mount it with "
                    "locks, or prepare on another disk and move the store."
                ) from error
        yield
