"""The process pool: everything is done once, and a crash costs what crashed."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from nc_medfl.data.engine import run_batches
from nc_medfl.errors import UserError

#: A spawned worker imports what it runs, so that stands in a module of its own.
WORK = """
import os


def nothing():
    pass


def cannot_start():
    os._exit(12)


def double(batch):
    if -1 in batch:
        os._exit(11)
    return [2 * n for n in batch]


def singles(batch):
    return [(n,) for n in batch]


def lost(batch):
    return [-batch[0] * 1000]
"""


@pytest.fixture
def work(tmp_path, monkeypatch) -> ModuleType:
    (tmp_path / "engine_test_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("engine_test_work")


def run(work, batches, workers, initialise=None):
    results = run_batches(
        work.double,
        batches,
        workers=workers,
        initialise=initialise or work.nothing,
        split=work.singles,
        crashed=work.lost,
    )
    return sorted(n for result in results for n in result)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_batch_is_run_once(work, workers):
    batches = [(n, n + 1) for n in range(0, 20, 2)]
    assert run(work, batches, workers) == [2 * n for n in range(20)]


def test_a_crash_costs_the_one_that_crashed(work):
    batches = [(0, 1), (2, -1, 3), (4, 5), (6, 7)]
    assert run(work, batches, 2) == [0, 2, 4, 6, 8, 10, 12, 14, 1000]


def test_workers_that_cannot_start_are_not_blamed_on_the_files(work):
    with pytest.raises(UserError, match="cannot start"):
        run(work, [(0, 1)], 1, work.cannot_start)
