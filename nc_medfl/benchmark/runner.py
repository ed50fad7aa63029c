"""All runs of a matrix: those that are missing, a process each, as many at a time as asked for."""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from nc_medfl.benchmark.matrix import Json, Matrix, RunKey, run_keys
from nc_medfl.data.store import hash_of, write_atomic, write_json
from nc_medfl.errors import NcMedflError, RunFailed, UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

#: Called with runs done, runs in all, and counts by outcome.
Progress = Callable[..., None]

RUNS, SETTINGS = "runs", "matrix.json"


@dataclass(frozen=True)
class Outcome:
    """What became of a matrix.

    Attributes:
        made: runs made now.
        kept: runs that were there already.
        failed: folders of runs that failed, with the reason; they are made again next time.
    """

    made: int
    kept: int
    failed: dict[str, str]


def missing(matrix: Matrix, keys: list[RunKey], out: Path, found: Mapping[RunKey, Json]) -> list[RunKey]:
    """The runs that are not there, or were made with other settings or other data."""
    from nc_medfl.benchmark.single import settings_of

    return [key for key in keys if not is_finished(out, key, hash_of(settings_of(matrix, key, found.get(key))))]


def is_finished(out: Path, key: RunKey, settings_hash: str) -> bool:
    """Whether a run is there, whole, and made with these settings."""
    content = read_run(out, key)
    return content.get("outcome") == "finished" and content.get("settings_hash") == settings_hash


def read_run(out: Path, key: RunKey) -> Json:
    """A run's ``run.json``; empty where there is none, or a damaged one."""
    try:
        content = json.loads((out / RUNS / key.folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def select(matrix: Matrix, only: list[str]) -> list[RunKey]:
    """Runs whose address fits one of some patterns, such as ``*/iid/fedavg/*``; all without any.

    Raises:
        UserError: if a pattern fits none.
    """
    keys = list(run_keys(matrix))
    for pattern in only:
        if not any(fnmatch(key.folder.as_posix(), pattern) for key in keys):
            raise UserError(f"--only {pattern}: fits no run. An address is like {keys[0].folder.as_posix()}.")
    return [key for key in keys if not only or any(fnmatch(key.folder.as_posix(), text) for text in only)]


def run_matrix(
    matrix: Matrix,
    out: Path,
    *,
    jobs: int = 1,
    only: list[str] | None = None,
    progress: Progress = lambda *_: None,
    after: Callable[[], None] = lambda: None,
) -> Outcome:
    """Make every run that is missing. Killed at any time, it goes on where it was.

    Args:
        matrix: the study.
        out: its folder.
        jobs: runs at a time, each on one thread.
        only: patterns of addresses.
        progress: told of runs.
        after: called after each run, to bring tables up to date.

    Raises:
        UserError: for data or settings that no run can be made with.
    """
    keys = select(matrix, only or [])
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        write_json(out / SETTINGS, matrix.model_dump(mode="json"))
        with one_thread_each():
            found: dict[RunKey, Json] = {}
            todo = missing(matrix, keys, out, found)
            failed = _all(matrix, todo, out, jobs, found, len(keys), progress, after)
    return Outcome(len(todo) - len(failed), len(keys) - len(todo), failed)


def _all(
    matrix: Matrix,
    todo: list[RunKey],
    out: Path,
    jobs: int,
    found: Mapping[RunKey, Json],
    total: int,
    progress: Progress,
    after: Callable[[], None],
) -> dict[str, str]:
    failed: dict[str, str] = {}
    done = total - len(todo)
    progress(done, total)
    for key, reason in each_done(make_one, [(matrix, key, out, found.get(key)) for key in todo], jobs):
        done += 1
        if reason:
            failed[key[1].folder.as_posix()] = reason
        progress(done, total, {"failed": len(failed)} if failed else {})
        after()
    return failed


def make_one(matrix: Matrix, key: RunKey, out: Path, more: Json | None) -> str:
    """Make one run in this process; a text where it failed.

    Raises:
        UserError: for what no run of the matrix can be made with.
    """
    from nc_medfl.benchmark.single import run_single

    folder = out / RUNS / key.folder
    try:
        run_single(matrix, key, out, lambda *_: None, more)
    except RunFailed as error:
        return str(error)
    except NcMedflError:
        raise
    except Exception as error:  # whatever it is, the other runs go on, and this one is told of
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "error.txt", traceback.format_exc().encode())
        return f"{type(error).__name__}; see {folder / 'error.txt'}"
    (folder / "error.txt").unlink(missing_ok=True)
    return ""


def each_done(
    work: Callable[..., Any], tasks: list[tuple[Any, ...]], jobs: int
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Results of some calls as they come, so many at a time in processes of their own.

    A call that raises ends all; what runs then is stopped.
    """
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context)
    waiting = list(reversed(tasks))
    running: dict[Future[Any], tuple[Any, ...]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.pop()
                running[executor.submit(work, *task)] = task
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                task = running.pop(future)
                yield task, future.result()
    finally:
        # Stopped by the user, nobody waits for a run of minutes to end.
        processes = list((executor._processes or {}).values()) if running else []
        executor.shutdown(wait=not running, cancel_futures=True)
        for process in processes:
            process.terminate()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold a study: two benches at once would make its runs twice."""
    with (out / "lock").open("a") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"{out}: another bench is at work here. Wait for its end, or stop it.") from error
        yield


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started meanwhile use one thread each for arithmetic."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
