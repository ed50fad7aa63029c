"""Running batches on processes that may crash, here or on a cluster.

A native crash (a codec that hits a bad address) kills a worker and takes along what was in flight. Those batches
are then run again file by file, each alone, so the culprit is found and costs one file.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import connection
from typing import Any, Protocol, TypeVar

from nc_medfl.errors import UserError

B = TypeVar("B")
R = TypeVar("R")

#: Batches waiting in the pool for each worker: enough to keep it busy, few to repeat after a crash.
_AHEAD = 2
#: How often a wait looks up, seconds: at Ctrl-C, and at the engine's health.
_LOOK = 0.2
#: How long a worker may go on with its file once everything is to stop, seconds.
_GRACE = 3.0
#: A batch that takes its worker along that often is to blame: once may be somebody who ended the process.
_BLAMED_AFTER = 2

_stopping = threading.Event()


class Engine(Protocol):
    """Where batches are run."""

    #: What a future raises whose worker died.
    lost: tuple[type[BaseException], ...]

    def workers(self) -> int:
        """How many batches run at once."""

    def pool(self, workers: int) -> AbstractContextManager[Executor]:
        """Processes to submit to; on an error they are stopped, else waited for."""

    def check(self) -> None:
        """Raise a UserError if waiting any longer is in vain."""


def stopping() -> bool:
    """In a worker: whether everything is to stop, so that the batch may be given up."""
    return _stopping.is_set()


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
    with _without_main():
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            yield
            return
        # The mask goes over to the processes that are started under it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Have new processes leave alone the script that this one runs: they need our modules only.

    Each would run it again, and import all that it imports, before it reads its first file.
    """
    main = sys.modules["__main__"].__dict__
    spec, file = main.get("__spec__"), main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main["__spec__"] = spec
        if file is not None:
            main["__file__"] = file


class ProcessEngine:
    """Processes of this machine.

    Args:
        workers: how many.
        initialise: run once in each; calls :func:`begin_worker`.
    """

    lost: tuple[type[BaseException], ...] = (BrokenProcessPool,)

    def __init__(self, workers: int, initialise: Callable[[], None]) -> None:
        self._workers = workers
        self._initialise = initialise

    def workers(self) -> int:
        """How many batches run at once."""
        return self._workers

    def check(self) -> None:
        """Nothing to look at: a dead worker is told by its future."""

    @contextmanager
    def pool(self, workers: int) -> Iterator[Executor]:
        """A fresh pool. On an error its workers are told to stop, and gone within seconds."""
        context = multiprocessing.get_context("spawn")
        reader, writer = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(self._initialise, reader))
        try:
            if workers == 1:
                self._check_start(pool)
            yield pool
        except BaseException:
            writer.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            writer.close()
            reader.close()

    def _check_start(self, pool: ProcessPoolExecutor) -> None:
        """Tell a worker that cannot start from one that a file killed: else every file would be blamed."""
        try:
            with quiet_start():
                started = pool.submit(os.getpid)
            _result(started, self.check)
        except BrokenProcessPool as error:
            raise UserError(
                "the reading processes cannot start. Free some memory and run again; what is done is kept."
            ) from error


def _begin(initialise: Callable[[], None], told: Any) -> None:
    threading.Thread(target=_stop_when_told, args=(told,), daemon=True).start()
    initialise()


def _stop_when_told(told: Any) -> None:
    # The parent never sends: the pipe ends when it closes its side.
    connection.wait([told])
    _stopping.set()
    time.sleep(_GRACE)
    os._exit(1)


class _Interrupts:
    """Ctrl-C and SIGTERM, noted and acted on at a safe place, so that no step of ours is cut in two."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if callable(before):
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, *_: object) -> None:
        self._asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was asked for."""
        if self._asked:
            raise KeyboardInterrupt


def run_batches(
    function: Callable[[B], R],
    batches: Sequence[B],
    *,
    engine: Engine | None,
    split: Callable[[B], Sequence[B]],
    crashed: Callable[[B], R],
) -> Generator[R, None, None]:
    """Run a function over batches; results come in any order. Close the generator to stop early.

    Args:
        function: run in a worker; must be importable there (the pool spawns).
        batches: what to run it on.
        engine: where; None runs everything in this process (then a crash is a crash).
        split: a batch as batches of one file.
        crashed: the result of a batch of one file that killed its worker.

    Raises:
        KeyboardInterrupt: between two results, on Ctrl-C or SIGTERM where that is so handled.
        UserError: if workers cannot be started or reached.
    """
    if engine is None:
        yield from map(function, batches)
        return
    suspects: list[B] = []
    waiting = list(reversed(batches))
    with _Interrupts() as interrupts:

        def check() -> None:
            interrupts.check()
            engine.check()

        while waiting:
            with engine.pool(engine.workers()) as pool:
                yield from _until_broken(engine, pool, function, waiting, suspects, check)
            if suspects:
                singles = [one for batch in suspects for one in split(batch)]
                yield from _one_by_one(engine, function, singles, crashed, check)
                suspects.clear()


def _until_broken(
    engine: Engine,
    pool: Executor,
    function: Callable[[B], R],
    waiting: list[B],
    suspects: list[B],
    check: Callable[[], None],
) -> Generator[R, None, None]:
    """Results until all is done or a worker died; what was lost with it then stands in ``suspects``."""
    running: dict[Future[R], B] = {}
    limit = _AHEAD * engine.workers()
    while waiting or running:
        while waiting and len(running) < limit and not suspects:
            batch = waiting.pop()
            try:
                with quiet_start():
                    running[pool.submit(function, batch)] = batch
            except engine.lost:
                suspects.append(batch)
        done, _ = wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED)
        check()
        for future in done:
            batch = running.pop(future)
            try:
                result = future.result()
            except engine.lost:
                suspects.append(batch)
                continue
            yield result
        if suspects and not running:
            return


def _one_by_one(
    engine: Engine,
    function: Callable[[B], R],
    singles: Sequence[B],
    crashed: Callable[[B], R],
    check: Callable[[], None],
) -> Generator[R, None, None]:
    position, failures = 0, 0
    while position < len(singles):
        with engine.pool(1) as pool:
            while position < len(singles):
                try:
                    with quiet_start():
                        submitted = pool.submit(function, singles[position])
                    result = _result(submitted, check)
                except engine.lost:
                    check()
                    failures += 1
                    if failures < _BLAMED_AFTER:
                        break
                    result = crashed(singles[position])
                    position, failures = position + 1, 0
                    yield result
                    break
                position, failures = position + 1, 0
                yield result


def _result(future: Future[R], check: Callable[[], None]) -> R:
    while not future.done():
        wait([future], timeout=_LOOK)
        check()
    return future.result()
