"""The process pool: everything is done once, and a crash costs what crashed."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.data.engine import ProcessEngine, run_batches
from nc_medfl.data.reading import batch_lengths
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
        engine=ProcessEngine(workers, initialise or work.nothing) if workers else None,
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


DOZING = """
import os, sys, time
from pathlib import Path


def doze(batch):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(60)
"""

#: Without a guard: a worker doesn't run its parent's script again.
SLEEPY = """
from dozing import doze
from nc_medfl.data.engine import ProcessEngine, begin_worker, run_batches

list(run_batches(doze, [(1,), (2,)], engine=ProcessEngine(2, begin_worker), split=list, crashed=doze))
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A container's first process may leave the dead unburied.
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent_and_without_a_word_of_their_own(tmp_path, how):
    (tmp_path / "dozing.py").write_text(DOZING)
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    (tmp_path / "pids").mkdir()
    command = [sys.executable, str(tmp_path / "sleepy.py"), str(tmp_path / "pids")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as parent:
        deadline = time.monotonic() + 30
        while len(pids := [int(p.name) for p in (tmp_path / "pids").iterdir()]) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(pids) == 2
        if how is signal.SIGINT:
            # As a terminal does, to all of them; the workers stay until the parent is gone.
            os.killpg(parent.pid, how)
            time.sleep(0.3)
            assert all(_alive(pid) for pid in pids)
        parent.kill()
        while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(_alive(pid) for pid in pids)
        assert "Process" not in (parent.stderr.read() if parent.stderr else "")


@given(files=st.integers(0, 5000), workers=st.integers(0, 64))
def test_batches_hold_every_file_and_get_no_longer_towards_the_end(files, workers):
    lengths = batch_lengths(files, workers)
    assert sum(lengths) == files
    assert lengths == sorted(lengths, reverse=True)
    assert all(1 <= length <= 32 for length in lengths)
    # The last of a worker keeps the others waiting for four files at most.
    assert lengths[-1:] <= [4]
