"""A few threads over many items: never more at work than asked for, and gone soon after a stop."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: How long threads in the middle of a request are waited for once the work is stopped.
_GRACE = 5.0


def bounded_map(
    call: Callable[[Item], Result], items: Iterable[Item], *, workers: int, stop: threading.Event
) -> Generator[tuple[Item, Result | Exception], None, None]:
    """Call a function on every item, at most ``workers`` at once; results as they come.

    An exception is a result too: the caller decides whether to go on. Ending the iteration early (an error of the
    caller's, Ctrl-C) sets ``stop``, and no new item is begun. The threads are daemons, so a request that hangs
    doesn't keep the process alive; a pool of ``concurrent.futures`` would.

    Args:
        call: what to do; is to watch ``stop`` where it waits.
        items: taken from one at a time, as threads become free.
        workers: how many threads.
        stop: set by whoever wants the end.

    Yields:
        (item, result or exception), in any order.
    """
    source = _Source(items)
    results: queue.SimpleQueue[tuple[Item, Result | Exception] | None] = queue.SimpleQueue()

    def work() -> None:
        while not stop.is_set() and (taken := source.take()):
            (item,) = taken
            try:
                results.put((item, call(item)))
            except Exception as error:
                results.put((item, error))
        results.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    waiting = workers
    try:
        for thread in threads:
            thread.start()
        while waiting:
            done = results.get()
            if done is None:
                waiting -= 1
            else:
                yield done
    finally:
        if waiting:
            stop.set()
        end = time.monotonic() + _GRACE
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))


class _Source(Generic[Item]):
    """Items that several threads take from."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items, self._lock = iter(items), threading.Lock()

    def take(self) -> tuple[Item] | None:
        """The next item in a tuple, or None at the end."""
        with self._lock:
            for item in self._items:
                return (item,)
            return None
