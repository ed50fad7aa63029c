"""Tasks done in a process of their own: the same answers, and a death that costs one task."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError
from nc_medfl.federation import keys
from nc_medfl.federation.tasks import Answer, Task, TrainerDied, in_few_words
from nc_medfl.federation.trainers import InlineTrainer, ProcessTrainer, RemoteError, make_trainer
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network
from tests_support import tiny_site

CONTENT = {"network": {"backbone": "small", "norm": "group"}, "training": {"lr": 1e-3, "eps": 1e-2}}
SETTINGS = parse(JobSettings, CONTENT, where="test").for_sites()
RUN = "0" * 32


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_site(tmp_path_factory.mktemp("site"), "a", images=56)


def a_config(store: Store, **more: Any) -> SiteConfig:
    return SiteConfig(name="a", store=store.folder, threads=1, batch_size=11, **({"device": "cpu"} | more))


def a_task(name: str = keys.TASK_TRAIN, settings: JobSettings = SETTINGS) -> Task:
    return Task(name, build_network(settings).state_dict(), 0, RUN)


def a_process(store: Store, folder: Path, settings: JobSettings = SETTINGS, **config: Any) -> ProcessTrainer:
    return ProcessTrainer(settings, a_config(store, **config), folder / "state", folder / "trainer")


@pytest.fixture(scope="module")
def inline(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Answer:
    trainer = InlineTrainer(SETTINGS, a_config(store), tmp_path_factory.mktemp("state"))
    return trainer.do(a_task(), never)


def losses(answer: Answer) -> dict[str, float]:
    found: dict[str, float] = json.loads(answer.meta[keys.LOSSES])
    return found


def test_a_process_answers_as_this_one_does(store: Store, inline: Answer, tmp_path: Path) -> None:
    answer = a_process(store, tmp_path).do(a_task(), never)
    assert answer.params is not None
    assert inline.params is not None
    assert all(torch.equal(answer.params[name], value) for name, value in inline.params.items())
    assert set(answer.meta) == set(inline.meta)
    for name, value in inline.meta.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(answer.meta[name], value)
        else:
            assert answer.meta[name] == value
    assert [path.name for path in (tmp_path / "trainer").iterdir()] == ["trainer.log"]


def test_two_processes_train_as_one_does(store: Store, inline: Answer, tmp_path: Path) -> None:
    # 34 training images in batches of 11, 11 and 12 (the last single one joins them): shares are uneven, 6 and 5.
    answer = a_process(store, tmp_path, devices=("cpu", "cpu")).do(a_task(), never)
    assert answer.params is not None
    assert inline.params is not None
    for name, value in inline.params.items():
        # AdamW divides by the gradient's size, which turns rounding into steps where the gradient is nothing but
        # rounding (the bias of attention's keys); the large eps above keeps that out.
        torch.testing.assert_close(answer.params[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    start = build_network(SETTINGS).state_dict()
    assert max(float((inline.params[name] - start[name]).abs().max()) for name in start) > 1e-3
    assert losses(answer) == pytest.approx(losses(inline), rel=1e-4)
    assert answer.meta[keys.N_SAMPLES] == inline.meta[keys.N_SAMPLES]


def test_batch_normalisation_over_several_cpus_is_refused(store: Store, tmp_path: Path) -> None:
    settings = parse(JobSettings, {"network": {"backbone": "small"}}, where="test").for_sites()
    with pytest.raises(UserError, match=r"network\.norm=group"):
        make_trainer(settings, a_config(store, devices=("cpu", "cpu")), tmp_path, tmp_path, "5d8e")


def trainers_of(folder: Path) -> list[psutil.Process]:
    everyone = psutil.process_iter(["cmdline"])
    return [process for process in everyone if any(str(folder) in part for part in process.info["cmdline"] or [])]


def kill_once_started(folder: Path, how: signal.Signals) -> None:
    while not trainers_of(folder):
        time.sleep(0.05)
    for process in trainers_of(folder):
        os.kill(process.pid, how)


def test_a_killed_process_costs_its_task_and_the_next_is_done(store: Store, tmp_path: Path) -> None:
    trainer = a_process(store, tmp_path)
    killer = threading.Thread(target=kill_once_started, args=(tmp_path, signal.SIGKILL))
    killer.start()
    with pytest.raises(TrainerDied, match="killed by signal 9") as error:
        trainer.do(a_task(keys.TASK_VALIDATE), never)
    killer.join()
    assert in_few_words(error.value) == "its trainer was killed by signal 9"
    assert keys.COUNTS in trainer.do(a_task(keys.TASK_VALIDATE), never).meta


def test_a_process_that_hangs_ends_with_the_round(store: Store, tmp_path: Path) -> None:
    waiting = SETTINGS.federation.model_copy(update={"round_timeout": 3})
    trainer = a_process(store, tmp_path, SETTINGS.model_copy(update={"federation": waiting}))
    killer = threading.Thread(target=kill_once_started, args=(tmp_path, signal.SIGSTOP))
    killer.start()
    with pytest.raises(TrainerDied, match="had not ended after 3 s"):
        trainer.do(a_task(), never)
    killer.join()
    assert trainers_of(tmp_path) == []


def test_a_job_that_is_stopped_stops_the_process(store: Store, tmp_path: Path) -> None:
    trainer = a_process(store, tmp_path)
    with pytest.raises(TrainerDied, match="stopped"):
        trainer.do(a_task(), lambda: bool(trainers_of(tmp_path)))
    assert trainers_of(tmp_path) == []


def test_an_error_arrives_as_what_it_was(store: Store, tmp_path: Path) -> None:
    gone = SiteConfig(name="a", store=tmp_path / "no store", device="cpu")
    with pytest.raises(UserError, match="no store"):
        ProcessTrainer(SETTINGS, gone, tmp_path / "state", tmp_path / "trainer").do(a_task(), never)
    wrong = Task(keys.TASK_TRAIN, {"unknown": torch.zeros(1)}, 0, RUN)
    with pytest.raises(RemoteError) as error:
        a_process(store, tmp_path).do(wrong, never)
    # The kind of it may leave the site; the message may not.
    assert in_few_words(error.value) == "RuntimeError"


@pytest.mark.parametrize(
    ("trainer", "job", "devices", "kind"),
    [
        ("auto", "simulate_job", (), InlineTrainer),
        ("auto", "5d8e", (), ProcessTrainer),
        ("inline", "5d8e", (), InlineTrainer),
        ("process", "simulate_job", (), ProcessTrainer),
        ("auto", "simulate_job", ("cuda:0", "cuda:1"), ProcessTrainer),
    ],
)
def test_who_trains(store: Store, tmp_path: Path, trainer: str, job: str, devices: Any, kind: type) -> None:
    config = a_config(store, trainer=trainer, devices=devices)
    assert isinstance(make_trainer(SETTINGS, config, tmp_path, tmp_path, job), kind)


def test_a_full_disk_is_told_in_two_words_without_a_path() -> None:
    import errno

    assert in_few_words(OSError(errno.ENOSPC, "No space left on device", "/data/patients")) == "disk full"
    assert in_few_words(UserError("/data/x: broken")) == "something to mend at the site; see its log"
