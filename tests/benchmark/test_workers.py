"""The processes that make a bench's runs, when the one that started them is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os
from nc_medfl.benchmark.runner import workers

if __name__ == "__main__":
    with workers(1) as made:
        for _, pid in made.each_done(os.getpid, [()]):
            print(pid, flush=True)
        input()
"""


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_workers_go_with_a_bench_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "bench_killed.py"
    script.write_text(SCRIPT)
    bench = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert bench.stdout is not None
        worker = int(bench.stdout.readline())
        assert is_there(worker)
        bench.kill()
        bench.wait()
        deadline = time.monotonic() + 20
        while is_there(worker) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_there(worker)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(bench.pid, signal.SIGKILL)
