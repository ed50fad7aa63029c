"""Where a site's tasks are done: in FLARE's client process, or in a process of their own for every task.

FLARE ends the whole job when a client process dies. A process of its own for the training, which is what runs out of
memory or trips over a GPU, makes its death the failure of one task; the site is back with the next one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.errors import UserError
from nc_medfl.federation import keys
from nc_medfl.federation.policy import Refusal
from nc_medfl.federation.processes import family, stop
from nc_medfl.federation.tasks import Answer, Task, TrainerDied, do_task, make_worker
from nc_medfl.federation.worker import SiteWorker

#: FLARE's job id in its simulator, where sites share one machine and a process a task would cost the most.
_SIMULATED = "simulate_job"
_POLL_SECONDS = 0.2
REQUEST, PARAMS, ANSWER, ANSWER_PARAMS, ANSWER_ARRAYS, ERROR = (
    "request.json",
    "params.safetensors",
    "answer.json",
    "answer.safetensors",
    "arrays.safetensors",
    "error.json",
)


class Trainer(Protocol):
    """Does a site's tasks."""

    def do(self, task: Task, stopped: Callable[[], bool]) -> Answer:
        """Do one task; ``stopped`` says when the answer is no longer wanted."""
        ...


@dataclass
class InlineTrainer:
    """Does tasks in this process, with one worker for all of them."""

    settings: JobSettings
    config: SiteConfig
    state_root: Path
    _worker: SiteWorker | None = None

    def do(self, task: Task, stopped: Callable[[], bool]) -> Answer:  # noqa: ARG002  # a task here runs to its end
        """Do one task."""
        if self._worker is None:
            self._worker = make_worker(self.settings, self.config, self.state_root, task.run_id)
        return do_task(self._worker, task)


@dataclass(frozen=True)
class ProcessTrainer:
    """Does each task in a process of its own; in one for each device, under torchrun, where the site has several.

    Attributes:
        settings: the job's.
        config: the site's own.
        state_root: the site's state folder.
        folder: for the processes' log, and for what is passed to and fro while a task runs.
    """

    settings: JobSettings
    config: SiteConfig
    state_root: Path
    folder: Path

    def do(self, task: Task, stopped: Callable[[], bool]) -> Answer:
        """Do one task.

        Raises:
            TrainerDied: if the process ended without an answer.
            UserError: if it ended with one; another error of it arrives as :class:`RemoteError`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        exchange = Path(tempfile.mkdtemp(prefix="task-", dir=self.folder))
        try:
            write_request(exchange, self, task)
            with (self.folder / "trainer.log").open("ab") as log:
                code = self._run(exchange, log, stopped)
            return read_answer(exchange, code)
        finally:
            shutil.rmtree(exchange, ignore_errors=True)

    def _run(self, exchange: Path, log: Any, stopped: Callable[[], bool]) -> int:
        environment = {**os.environ, keys.ENV_PARENT: str(os.getpid())}
        if "lo" in psutil.net_if_addrs():  # processes of one machine need no other way to each other
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        process = subprocess.Popen(  # our own module, arguments we made
            [*_launcher(self.config), "-m", "nc_medfl.federation.trainer_process", str(exchange)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        limit = self.settings.federation.round_timeout
        deadline = time.monotonic() + limit if limit else float("inf")
        started: set[psutil.Process] = set()
        try:
            while process.poll() is None:
                started.update(family(process.pid))
                if stopped():
                    raise TrainerDied("its trainer was stopped")
                if time.monotonic() > deadline:
                    raise TrainerDied(f"its trainer had not ended after {limit} s")
                time.sleep(_POLL_SECONDS)
        finally:
            stop({*started, *family(process.pid)})
        return process.wait()


def _launcher(config: SiteConfig) -> list[str]:
    count = len(config.devices)
    if count < 2:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]


def make_trainer(settings: JobSettings, config: SiteConfig, state_root: Path, run_dir: Path, job_id: str) -> Trainer:
    """The trainer that a site's settings ask for.

    Raises:
        UserError: for batch normalisation on several CPUs, which PyTorch can't keep in step.
    """
    if len(config.devices) > 1 and "cpu" in config.devices and settings.network.norm == "batch":
        raise UserError(
            f"site {config.name}: devices: batch normalisation over several CPUs is not possible. "
            "Name one device, or have the job set network.norm=group."
        )
    inline = config.trainer == "inline" or (config.trainer == "auto" and job_id == _SIMULATED)
    if inline and len(config.devices) < 2:
        return InlineTrainer(settings, config, state_root)
    return ProcessTrainer(settings, config, state_root, run_dir / "nc_medfl_trainer")


class RemoteError(Exception):
    """An error in a trainer process; ``kind`` is its class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def write_request(folder: Path, trainer: ProcessTrainer, task: Task) -> None:
    """Put a task where a trainer process finds it."""
    save_tensors({name: value.contiguous() for name, value in task.params.items()}, folder / PARAMS)
    request = {
        "task": task.name,
        "round": task.round_number,
        "run_id": task.run_id,
        "settings": trainer.settings.model_dump(mode="json"),
        "config": trainer.config.model_dump(mode="json"),
        "state_root": str(trainer.state_root),
    }
    (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")


def read_request(folder: Path) -> tuple[JobSettings, SiteConfig, Path, Task]:
    """What :func:`write_request` wrote."""
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    task = Task(request["task"], load_tensors(folder / PARAMS), int(request["round"]), request["run_id"])
    settings = JobSettings.model_validate(request["settings"])
    return settings, SiteConfig.model_validate(request["config"]), Path(request["state_root"]), task


def write_answer(folder: Path, answer: Answer) -> None:
    """Put an answer where the client finds it; ``answer.json`` comes last."""
    arrays = {name: value for name, value in answer.meta.items() if isinstance(value, np.ndarray)}
    save_arrays({name: np.ascontiguousarray(value) for name, value in arrays.items()}, folder / ANSWER_ARRAYS)
    if answer.params is not None:
        save_tensors({name: value.contiguous() for name, value in answer.params.items()}, folder / ANSWER_PARAMS)
    rest = {name: value for name, value in answer.meta.items() if name not in arrays}
    (folder / ANSWER).write_text(json.dumps(rest), encoding="utf-8")


def read_answer(folder: Path, code: int) -> Answer:
    """The answer of a trainer process that ended with ``code``.

    Raises:
        TrainerDied: if there is none, and no error either.
        UserError: if that is what the process ended with.
        RemoteError: if it was another error.
    """
    if (folder / ERROR).is_file():
        error = json.loads((folder / ERROR).read_text(encoding="utf-8"))
        if error.get("category"):
            raise Refusal(error["category"], error["message"])
        if error["kind"] == UserError.__name__:
            raise UserError(error["message"])
        raise RemoteError(error["kind"], error["message"])
    if code != 0 or not (folder / ANSWER).is_file():
        raise TrainerDied(f"its trainer was killed by signal {-code}" if code < 0 else f"its trainer ended with {code}")
    meta = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
    params = load_tensors(folder / ANSWER_PARAMS) if (folder / ANSWER_PARAMS).is_file() else None
    return Answer(params, {**meta, **load_arrays(folder / ANSWER_ARRAYS)})
