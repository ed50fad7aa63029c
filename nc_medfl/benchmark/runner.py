"""All runs of a matrix: those that are missing, a process each, as many at a time as asked for."""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from nc_medfl.benchmark.identity import settings_of, with_new_keys
from nc_medfl.benchmark.matrix import Json, Matrix, RunKey, run_keys
from nc_medfl.benchmark.searching import Trial, conclude, search_of, trials
from nc_medfl.data.engine import begin_worker
from nc_medfl.data.store import write_atomic, write_json
from nc_medfl.errors import NcMedflError, UserError, writing

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


@dataclass(frozen=True, eq=False)
class Task:
    """A run to be made.

    Attributes:
        key: data set, partition, method and seed.
        folder: below the study.
        more: job settings on top of the matrix.
        test: whether the test split is measured.
    """

    key: RunKey
    folder: Path
    more: Json | None = None
    test: bool = True


def missing(matrix: Matrix, tasks: list[Task], out: Path) -> list[Task]:
    """The runs that are not there, or were made with other settings or other data."""
    return [
        task
        for task in tasks
        if not is_finished(out / task.folder, settings_of(matrix, task.key, task.more, test=task.test))
    ]


def is_finished(folder: Path, settings: Json) -> bool:
    """Whether a run is there, whole, and made with these settings."""
    content = read_json(folder / "run.json")
    return content.get("outcome") == "finished" and with_new_keys(content.get("settings")) == settings


def read_run(out: Path, key: RunKey) -> Json:
    """A run's ``run.json``; empty where there is none, or a damaged one."""
    return read_json(out / RUNS / key.folder / "run.json")


def read_json(path: Path) -> Json:
    """A JSON file's object; empty where there is none, or a damaged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def select(matrix: Matrix, only: list[str]) -> list[RunKey]:
    """Runs whose address fits one of some patterns, such as ``*/iid/fedavg/*``; all without any.

    Raises:
        UserError: if a pattern fits none, or the sites of data that has none are to be left as they are.
    """
    keys = list(run_keys(matrix))
    for pattern in only:
        if not any(fnmatch(key.folder.as_posix(), pattern) for key in keys):
            raise UserError(f"--only {pattern}: fits no run. An address is like {keys[0].folder.as_posix()}.")
    keys = [key for key in keys if not only or any(fnmatch(key.folder.as_posix(), text) for text in only)]
    _check_natural(matrix, keys)
    return keys


def _check_natural(matrix: Matrix, keys: list[RunKey]) -> None:
    with_sites = [name for name, data in matrix.datasets.items() if data.kind in ("sites", "synthetic")]
    for key in keys:
        if matrix.partitions[key.partition].natural and key.dataset not in with_sites:
            others = [name for name in matrix.partitions if not matrix.partitions[name].natural]
            wanted = [f"--only '{key.dataset}/{name}/*'" for name in others]
            wanted += [f"--only '{name}/{key.partition}/*'" for name in with_sites]
            remedy = f"choose runs, such as {' '.join(wanted)}, or" if wanted else "name another partition, or"
            raise UserError(
                f"partitions.{key.partition} leaves sites as they are, and datasets.{key.dataset} has none (kind "
                f"{matrix.datasets[key.dataset].kind}): {remedy} take data of kind sites or synthetic."
            )


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
    remedy = "Give --out a folder that can be written."
    with writing(out, remedy):
        out.mkdir(parents=True, exist_ok=True)
    with _alone(out, remedy):
        with writing(out, remedy):
            write_json(out / SETTINGS, matrix.model_dump(mode="json"))
        with one_thread_each(), workers(jobs) as pool:
            found = _searched(matrix, keys, out, pool, progress) if matrix.search else {}
            tasks = [Task(key, Path(RUNS) / key.folder, found.get(key)) for key in keys]
            todo = missing(matrix, tasks, out)
            failed = _all(matrix, todo, out, pool, len(tasks), progress, after)
    told = {task.key.folder.as_posix(): reason for task, reason in failed.items()}
    return Outcome(len(todo) - len(failed), len(keys) - len(todo), told)


def _searched(matrix: Matrix, keys: list[RunKey], out: Path, pool: Workers, progress: Progress) -> dict[RunKey, Json]:
    """Make the runs of the search that are missing; the settings to make each run with."""
    tasks = _tasks(trials(matrix, keys))
    reasons = _all(matrix, missing(matrix, list(tasks), out), out, pool, len(tasks), progress, lambda: None)
    tasks |= _searched_before(matrix, tasks, out)
    failed = dict.fromkeys(missing(matrix, list(tasks), out), "it failed") | reasons
    done = {trial: read_json(out / task.folder / "run.json") for task, trial in tasks.items() if task not in failed}
    return conclude(matrix, out, done, {tasks[task]: reason for task, reason in failed.items()})


def _searched_before(matrix: Matrix, now: Iterable[Task], out: Path) -> dict[Task, Trial]:
    """Trials of other runs' searches that have ended: what they found stands, whichever runs are made now."""
    wanted = {task.folder for task in now}
    every = _tasks(trials(matrix, run_keys(matrix)))
    others = {task: trial for task, trial in every.items() if task.folder not in wanted}
    not_there = set(missing(matrix, list(others), out))
    failed = {task for task in not_there if (out / task.folder / "error.txt").is_file()}
    lacking = {search_of(matrix, others[task]) for task in not_there - failed}
    scored = {search_of(matrix, trial) for task, trial in others.items() if task not in not_there}
    return {task: trial for task, trial in others.items() if search_of(matrix, trial) in scored - lacking}


def _tasks(some: Iterable[Trial]) -> dict[Task, Trial]:
    return {Task(trial.key, trial.folder, trial.more, test=False): trial for trial in some}


def _all(
    matrix: Matrix,
    todo: list[Task],
    out: Path,
    pool: Workers,
    total: int,
    progress: Progress,
    after: Callable[[], None],
) -> dict[Task, str]:
    """Make some runs; the reason for each that failed.

    Raises:
        UserError: for a mistake in what was given, before any run was made: it may hold for all.
    """
    failed: dict[Task, str] = {}
    done = total - len(todo)
    progress(done, total)
    for (_, task, _), (reason, mistake) in pool.each_done(make_one, [(matrix, task, out) for task in todo]):
        if mistake and done == len(failed):
            raise UserError(f"{task.key.folder.as_posix()}: {reason}")
        done += 1
        if reason:
            failed[task] = reason
        progress(done, total, {"failed": len(failed)} if failed else {})
        after()
    return failed


def make_one(matrix: Matrix, task: Task, out: Path) -> tuple[str, bool]:
    """Make one run in this process.

    Returns:
        A text where it failed, so that the others go on, and whether that is a mistake in what was given.
    """
    from nc_medfl.benchmark.single import run_single
    from nc_medfl.training.trainer import Diverged

    folder = out / task.folder
    try:
        run_single(matrix, task.key, out, lambda *_: None, task.more, folder=task.folder, test=task.test)
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "error.txt", traceback.format_exc().encode())
        told = isinstance(error, (NcMedflError, Diverged))
        reason = str(error) if told else f"{type(error).__name__}; see {folder / 'error.txt'}"
        return reason, isinstance(error, UserError)
    (folder / "error.txt").unlink(missing_ok=True)
    return "", False


class Workers:
    """Processes that make so many runs at a time."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        spawn = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=begin_worker)

    def each_done(
        self, work: Callable[..., Any], tasks: list[tuple[Any, ...]]
    ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Results of some calls as they come; a call that raises ends all."""
        waiting = list(reversed(tasks))
        running: dict[Future[Any], tuple[Any, ...]] = {}
        while waiting or running:
            while waiting and len(running) < self._jobs:
                task = waiting.pop()
                running[self._executor.submit(work, *task)] = task
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                task = running.pop(future)
                yield task, future.result()

    def end(self, *, at_once: bool) -> None:
        """Let the processes go, or stop what still runs: stopped by the user, nobody waits for a run of minutes."""
        processes = list((self._executor._processes or {}).values()) if at_once else []
        self._executor.shutdown(wait=not at_once, cancel_futures=True)
        for process in processes:
            process.terminate()


@contextmanager
def workers(jobs: int) -> Iterator[Workers]:
    """Processes for a while."""
    made = Workers(jobs)
    try:
        yield made
    except BaseException:
        made.end(at_once=True)
        raise
    made.end(at_once=False)


@contextmanager
def _alone(out: Path, remedy: str) -> Iterator[None]:
    """Hold a study: two benches at once would make its runs twice."""
    with writing(out, remedy):
        held = (out / "lock").open("a")
    with held as stream:
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
