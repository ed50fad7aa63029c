"""The same batches on a Dask cluster: ``--engine dask://HOST:PORT``.

Batches go to the workers and records come back through the scheduler, pixels through the shared folder of the store:
so every worker must see the images and the store under the paths that this process uses. Names of files and
identifiers travel over the cluster's network, and are kept out of its logs and dashboard.
"""

from __future__ import annotations

import logging
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nc_medfl.data.private import write_private
from nc_medfl.errors import UserError

#: How long the scheduler, and a first worker, are waited for, seconds.
_ANSWER = 10.0
#: How long a cluster may be without any worker while files wait, seconds.
_ALONE = 60.0
#: How often the cluster's health is asked for, seconds.
_ASK = 2.0
#: How long a worker that was started again is left alone, seconds: its nanny takes a death before it has heard of the
#: start for a failed start, and gives the worker up for good.
_SETTLE = 1.5


class DaskEngine:
    """A connected cluster whose workers see what they need.

    Args:
        client: of ``distributed``.
        name: what the cluster is called in errors.
    """

    def __init__(self, client: Any, name: str) -> None:
        from distributed import KilledWorker

        self.lost: tuple[type[BaseException], ...] = (KilledWorker,)
        self._client = client
        self._name = name
        self._asked = self._seen = time.monotonic()
        self._opened = False

    def workers(self) -> int:
        """Threads of all workers."""
        return max(1, sum(self._threads().values()))

    @contextmanager
    def pool(self, workers: int) -> Iterator[Executor]:  # noqa: ARG002
        """The cluster; the number of workers is its own affair."""
        if self._opened:
            # Only a lost worker makes for another pool.
            self._let_workers_settle()
        self._opened = True
        executor = _Sealing(self._client.get_executor(pure=False))
        try:
            yield executor
        except CancelledError as error:
            # What Dask does to everything in flight when it has lost the scheduler.
            raise self._gone() from error
        finally:
            with suppress(Exception):
                executor.shutdown(wait=False)

    def check(self) -> None:
        """Raise a UserError if the scheduler is gone, or all workers are."""
        now = time.monotonic()
        if now - self._asked < _ASK:
            return
        self._asked = now
        if self._threads():
            self._seen = now
        elif now - self._seen > _ALONE:
            raise UserError(
                f"--engine {self._name}: all its workers are gone. Start some and run again; what is done is kept."
            )

    def _let_workers_settle(self) -> None:
        self._seen = time.monotonic()
        while not self._threads():
            time.sleep(_SETTLE)
            self.check()
        time.sleep(_SETTLE)

    def _threads(self) -> dict[str, int]:
        if self._client.status != "running":
            raise self._gone()
        try:
            return dict(self._client.nthreads())
        except Exception as error:
            # Many kinds, by the layer that failed first.
            raise self._gone() from error

    def _gone(self) -> UserError:
        return UserError(f"--engine {self._name}: the scheduler is gone. Start it and run again; what is done is kept.")


@contextmanager
def dask_engine(name: str, images: Path, shared: Path) -> Iterator[DaskEngine]:
    """Connect to a cluster and make sure that its workers can do the work.

    Args:
        name: ``dask://HOST:PORT`` of its scheduler.
        images: the images folder.
        shared: the folder of the store that pixels go to.

    Raises:
        UserError: if Dask is not installed, nobody answers, or a worker doesn't see the folders or has another
            version of this package.
    """
    try:
        import distributed
    except ImportError as error:
        raise UserError(
            f"--engine {name}: Dask is not installed. Install it with: pip install 'nc_medfl[dask]'"
        ) from error
    address = name.replace("dask://", "tcp://", 1)
    with _silence():
        try:
            client = distributed.Client(address, timeout=_ANSWER, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--engine {name}: no Dask scheduler answers there. Start one ('dask scheduler'), or mend the address."
            ) from error
        try:
            _check_workers(client, name, images, shared)
            yield DaskEngine(client, name)
        finally:
            with suppress(Exception):
                client.close(timeout=_ANSWER)


@contextmanager
def _silence() -> Iterator[None]:
    """Without the remarks and tracebacks of Dask and what it is built on; what matters of them is said by us."""
    heard = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado")]
    before = {name: logging.getLogger(name).level for name in (*heard, "asyncio")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in before:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def _check_workers(client: Any, name: str, images: Path, shared: Path) -> None:
    from nc_medfl import __version__
    from nc_medfl.data.dicom.reader import READER_VERSION

    try:
        client.wait_for_workers(1, timeout=_ANSWER)
    except TimeoutError as error:
        raise UserError(f"--engine {name}: has no workers. Start some with 'dask worker {name[7:]}'.") from error
    token = secrets.token_hex(8)
    probe = shared / f"probe-{token}"
    write_private(probe, token.encode())
    try:
        answers = list(client.run(_look, images.resolve(), probe.resolve(), token).values())
    except Exception as error:
        raise UserError(
            f"--engine {name}: its workers can't run nc_medfl ({type(error).__name__}). Install the same version there."
        ) from error
    wrong = next((answer.problem for answer in answers if answer.problem), "")
    if not wrong and any(answer.version != f"{__version__} {READER_VERSION}" for answer in answers):
        wrong = f"has another version of nc_medfl than {__version__}, which runs here. Install this one there"
    if not wrong and not all((shared / answer.reply).is_file() for answer in answers):
        wrong = "writes where this process doesn't see it. Give an --out on a disk that all share under one path"
    for path in shared.glob(f"*-{token}*"):
        path.unlink(missing_ok=True)
    if wrong:
        raise UserError(f"--engine {name}: a worker {wrong}.")


@dataclass(frozen=True)
class _Answer:
    version: str = ""
    reply: str = ""
    problem: str = ""


def _look(images: Path, probe: Path, token: str) -> _Answer:
    """In a worker: whether it sees the folders, can write, and what version it has."""
    from nc_medfl import __version__
    from nc_medfl.data.dicom.reader import READER_VERSION

    try:
        seen = probe.read_text() == token
    except OSError:
        seen = False
    if not seen:
        return _Answer(problem="doesn't see --out. Give one on a disk that all share under one path")
    if not images.is_dir():
        return _Answer(problem="doesn't see --images. Give a folder that all share under one path")
    reply = f"seen-{token}-{secrets.token_hex(8)}"
    try:
        write_private(probe.with_name(reply), token.encode())
    except OSError as error:
        return _Answer(problem=f"cannot write to --out ({error.strerror}). Run it as the user who owns that folder")
    return _Answer(f"{__version__} {READER_VERSION}", reply)


class _Sealed:
    """A call whose arguments stay out of the cluster's logs and dashboard, which show what tasks look like."""

    def __init__(self, function: Callable[[Any], Any], batch: Any) -> None:
        self.function = function
        self.batch = batch

    def __repr__(self) -> str:
        return "files to be read"


@dataclass(frozen=True)
class _Failure:
    """An error as a result: Dask would write its text, which may name a file, to the workers' logs."""

    kind: str
    text: str = ""
    number: int | None = None

    def error(self) -> Exception:
        """The error to be raised here."""
        if self.kind == "user":
            return UserError(self.text)
        return OSError(self.number, self.text) if self.kind == "system" else RuntimeError(f"{self.kind} in a worker")


def _run(sealed: _Sealed) -> Any:
    try:
        _settle_once()
        return sealed.function(sealed.batch)
    except UserError as error:
        return _Failure("user", str(error))
    except OSError as error:
        return _Failure("system", error.strerror or type(error).__name__, error.errno)
    except Exception as error:
        return _Failure(type(error).__name__)


@cache
def _settle_once() -> None:
    from nc_medfl.data.worker import settle

    settle()


class _Sealing(Executor):
    """Dask's executor, given sealed calls."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        """Submit a function of one argument."""
        (batch,) = arguments
        outer: Future[Any] = Future()
        self._inner.submit(_run, _Sealed(function, batch)).add_done_callback(lambda inner: _pass_on(inner, outer))
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Forget what is in flight, or wait for it."""
        self._inner.shutdown(wait=wait and not cancel_futures)


def _pass_on(inner: Future[Any], outer: Future[Any]) -> None:
    if inner.cancelled():
        outer.set_exception(CancelledError())
    elif (error := inner.exception()) is not None:
        outer.set_exception(error)
    elif isinstance(result := inner.result(), _Failure):
        outer.set_exception(result.error())
    else:
        outer.set_result(result)
