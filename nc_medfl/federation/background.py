"""Writing to disk while the sites already train."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """Does one thing at a time on a thread of its own; as a context manager, waits for it at the end.

    What is at work must not be changed by others until :meth:`finish` has returned.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="nc_medfl")
        self._work: Future[None] | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Start; after what was started before.

        Raises:
            Exception: whatever that ended with.
        """
        self.finish()
        self._work = self._pool.submit(work)

    def finish(self) -> None:
        """Wait for what was started.

        Raises:
            Exception: whatever it ended with, once.
        """
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # What ended the block says more than what befell the writing beside it.
        self._pool.shutdown(wait=True)
        if error is None:
            self.finish()
