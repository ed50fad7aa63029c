"""A shell in a network (and process) namespace of its own, in which FLARE may listen on all interfaces."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from typing import NoReturn

import pytest

#: Brings the loopback interface up (SIOCSIFFLAGS with IFF_UP | IFF_RUNNING); 'ip' isn't everywhere.
LOOPBACK_UP = (
    "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH14s', b'lo', 0x41, b''))"
)


def _unshare() -> list[str]:
    # As root a user namespace isn't needed; else it lets a user have the others.
    more = [] if os.geteuid() == 0 else ["--map-root-user"]
    # Killed when the tests are, however they end.
    return [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        *more,
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ]


def cannot(why: str) -> NoReturn:
    """Skip the test for want of something in the system, or fail it where NC_MEDFL_REQUIRE_NAMESPACES is set."""
    if os.environ.get("NC_MEDFL_REQUIRE_NAMESPACES"):
        pytest.fail(f"{why}, and NC_MEDFL_REQUIRE_NAMESPACES is set")
    pytest.skip(why)


def require_namespace() -> None:
    """Skip (or fail, see :func:`cannot`) the test where the system doesn't permit namespaces."""
    try:
        done = subprocess.run(
            [*_unshare(), "python3", "-c", LOOPBACK_UP], capture_output=True, text=True, timeout=120, check=False
        )
    except FileNotFoundError:
        cannot("no 'unshare' or 'setpriv' here, and FLARE listens on all interfaces of the machine")
    if done.returncode:
        cannot(f"no network namespace permitted here ({done.stderr.strip()[-80:]})")


class Shell:
    """One bash in a namespace. Whatever it started dies with it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [*_unshare(), "bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            text=True,
            start_new_session=True,
        )
        code, output = self.run(f'python3 -c "{LOOPBACK_UP}"')
        assert code == 0, output

    def run(self, command: str, timeout: float = 300) -> tuple[int, str]:
        """Exit code and output of a command; what it leaves in the background goes on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # A file each: what a command leaves in the background goes on writing to its own.
        self._count += 1
        output = self._folder / f"shell-{self._count}.out"
        self._process.stdin.write(f"{{ {command}\n}} </dev/null >{output} 2>&1; echo $?\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        code = int(self._process.stdout.readline()) if ready else None
        shown = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
        assert code is not None, f"{command}: not done after {timeout} s\n{shown[-2000:]}"
        return code, shown

    def close(self) -> None:
        """End the shell, and with its process namespace everything in it."""
        self._process.kill()
        self._process.wait(30)


def wait_for_text(path: Path, text: str, seconds: float = 300) -> None:
    """Wait until a log says something."""
    deadline = time.monotonic() + seconds
    while not (path.is_file() and text in path.read_text(encoding="utf-8", errors="replace")):
        assert time.monotonic() < deadline, f"{path} does not say '{text}'"
        time.sleep(0.5)
