"""Running batches on a process pool that survives a crash of the code it runs.

A native crash (a codec that hits a bad address) kills a worker and breaks the pool with all that is in
flight. Those batches are then run again file by file, each alone, so the culprit is found and costs one file.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from nc_medfl.errors import UserError

B = TypeVar("B")
R = TypeVar("R")

#: Batches waiting in the pool for each worker: enough to keep it busy, few to repeat after a crash.
_AHEAD = 2


def begin_worker() -> None:
    """Begin a worker process: Ctrl-C is left to the parent, and a parent that was killed takes it along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    # Its queue would be waited on for ever: the other workers hold its writing end open.
    parent.join()
    os._exit(1)


@contextmanager
def quiet_start() -> Iterator[None]:
    """Hold Ctrl-C back while workers are started: they would die of it, with a traceback, before they ignore it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # The mask goes over to the processes that are started under it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_batches(
    function: Callable[[B], R],
    batches: Sequence[B],
    *,
    workers: int,
    initialise: Callable[[], None],
    split: Callable[[B], Sequence[B]],
    crashed: Callable[[B], R],
) -> Generator[R, None, None]:
    """Run a function over batches; results come in any order.

    Args:
        function: run in a worker; must be importable there (the pool spawns).
        batches: what to run it on.
        workers: processes; 0 runs everything in this one (then a crash is a crash).
        initialise: run once in each worker; calls :func:`begin_worker`.
        split: a batch as batches of one file.
        crashed: the result of a batch of one file that killed its worker.
    """
    if workers == 0:
        yield from map(function, batches)
        return
    suspects: list[B] = []
    waiting = list(reversed(batches))
    while waiting:
        with _pool(workers, initialise) as pool:
            try:
                yield from _until_broken(pool, function, waiting, suspects, workers * _AHEAD)
            finally:
                # On an error or Ctrl-C the batches not yet begun are dropped; those running are waited for.
                pool.shutdown(wait=False, cancel_futures=True)
        if suspects:
            yield from _one_by_one(function, [one for batch in suspects for one in split(batch)], initialise, crashed)
            suspects.clear()


def _pool(workers: int, initialise: Callable[[], None]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=initialise)


def _until_broken(
    pool: ProcessPoolExecutor, function: Callable[[B], R], waiting: list[B], suspects: list[B], limit: int
) -> Generator[R, None, None]:
    """Results until all is done or the pool breaks; what was in flight then stands in ``suspects``."""
    running: dict[Future[R], B] = {}
    while waiting or running:
        while waiting and len(running) < limit and not suspects:
            batch = waiting.pop()
            try:
                with quiet_start():
                    running[pool.submit(function, batch)] = batch
            except BrokenProcessPool:
                suspects.append(batch)
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            batch = running.pop(future)
            try:
                result = future.result()
            except BrokenProcessPool:
                suspects.append(batch)
                continue
            yield result
        if suspects and not running:
            return


def _check_start(pool: ProcessPoolExecutor, initialise: Callable[[], None]) -> None:
    """Tell a worker that cannot start from one that a file killed: else every file would be blamed."""
    try:
        with quiet_start():
            started = pool.submit(initialise)
        started.result()
    except BrokenProcessPool as error:
        raise UserError(
            "the reading processes cannot start. Free some memory; in a script of your own, call this under "
            "if __name__ == '__main__'."
        ) from error


def _one_by_one(
    function: Callable[[B], R], singles: Sequence[B], initialise: Callable[[], None], crashed: Callable[[B], R]
) -> Generator[R, None, None]:
    position = 0
    while position < len(singles):
        with _pool(1, initialise) as pool:
            _check_start(pool, initialise)
            while position < len(singles):
                single = singles[position]
                position += 1
                try:
                    result = pool.submit(function, single).result()
                except BrokenProcessPool:
                    yield crashed(single)
                    break
                yield result
