"""Judge mutated files in a child process with limits, and tell crashes, hangs and memory from each other.

The child writes a line before and a line after each file, so that its parent knows which file it died of, and goes on
with the next one in a new child. Run as a script it is that child.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Of the processor, for one file: what others do with it meanwhile is no hang.
SECONDS = 10
#: By the clock, for one that waits instead of working.
PATIENCE = 120
#: Address space of the child, far above what it needs and far below what a hospital's machine has.
ADDRESS_SPACE = 6 * 2**30
_OUT_OF_TIME = (-signal.SIGALRM, -signal.SIGPROF)


@dataclass(frozen=True)
class Case:
    """What became of one mutated file.

    Attributes:
        seed_file, seed: with :func:`fuzz_mutations.mutate` they give the file again.
        mutations: their names.
        outcome: of the closed list, or ``crash`` or ``hang``.
        decisions: as explained.
        seconds: of the processor, to judge it.
        peak: resident bytes at most, and before.
        size: bytes of the file.
    """

    seed_file: str
    seed: int
    mutations: tuple[str, ...] = ()
    outcome: str = "crash"
    decisions: tuple[str, ...] = ()
    seconds: float = 0.0
    peak: tuple[int, int] = (0, 0)
    size: int = 0
    mean: float | None = None

    @property
    def name(self) -> str:
        """To be told in a failure."""
        return f"{Path(self.seed_file).name} seed {self.seed} ({', '.join(self.mutations)}): {self.outcome}"


def judge(jobs: Sequence[tuple[str, int]]) -> Iterator[Case]:
    """Judge ``(file, seed)`` pairs in child processes, one at a time."""
    left = list(jobs)
    while left:
        child = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(left))
            child.stdin.close()
        begun: dict[str, Any] | None = None
        done = 0
        for line in child.stdout:
            told = json.loads(line)
            if "outcome" in told:
                done += 1
                yield _case(told)
            begun = None if "outcome" in told else told
        assert child.stderr is not None
        complaint = child.stderr.read()
        status = child.wait()
        if status == 0 and done == len(left):
            assert not complaint, complaint
            return
        if begun is None:
            raise RuntimeError(f"the child died between files (status {status}): {complaint[-2000:]}")
        yield _case({**begun, "outcome": "hang" if status in _OUT_OF_TIME else f"crash {status}"})
        left = left[done + 1 :]


def _case(told: dict[str, Any]) -> Case:
    lists = {key: tuple(told[key]) for key in ("mutations", "decisions", "peak") if key in told}
    return Case(**{**told, **lists})


def _child() -> None:
    from fuzz_mutations import mutate

    from nc_medfl.data.dicom.explain import explain_bytes
    from nc_medfl.data.worker import initialise

    initialise()
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)  # ends the process, also one that is busy in a decoder
    seeds: dict[str, bytes] = {}
    for file, seed in json.load(sys.stdin):
        if file not in seeds:
            seeds = {file: Path(file).read_bytes()}
        content, mutations = mutate(seeds[file], seed)
        told: dict[str, Any] = {"seed_file": file, "seed": seed, "mutations": mutations, "size": len(content)}
        print(json.dumps(told), flush=True)
        before = _reset_peak()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(PATIENCE)
        start = time.process_time()
        explanation = explain_bytes(content)
        seconds = time.process_time() - start
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        result = explanation.to_json("")
        told |= {"outcome": explanation.outcome, "decisions": explanation.decisions, "seconds": seconds}
        told |= {"mean": result.get("mean"), "peak": (_status("VmHWM"), before)}
        print(json.dumps(told), flush=True)


def _reset_peak() -> int:
    """Make the kernel forget the peak so far, where it can, and say what is resident now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)


if __name__ == "__main__":
    _child()
