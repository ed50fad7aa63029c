"""A place in which FLARE runs for a test: a shell in a namespace of its own, and two sites of noise."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from deploy_support import Shell

from tests_support import REPOSITORY, tiny_site

SITES = ("alpha", "beta")
ADMIN, MEMBER = "admin@example.org", "looker@example.org"
#: A federation of seconds: training inside the client costs no start of a process a task.
SETTINGS = ("network.backbone=small", "training.lr=1e-3", "evaluation.resamples=0", "rounds=2")


class Place:
    """A folder with jobs and sites, and a shell in it."""

    def __init__(self, folder: Path, sites: Sequence[str] = SITES) -> None:
        self.folder = folder
        (folder / "jobs").symlink_to(REPOSITORY / "jobs")
        for seed, name in enumerate(sites):
            make_site(folder / "sites", name, seed)
        (folder / "home").mkdir()
        programs = Path(sys.executable).parent
        environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
        }
        environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        self.shell = Shell(folder, environment)

    def nc_medfl(self, arguments: str, code: int = 0, timeout: float = 1500) -> str:
        """Run the command as a user does; give what it says on stderr, and check how it ends."""
        got, said = self.shell.run(f"nc-medfl {arguments}", timeout)
        assert got == code, f"nc-medfl {arguments}\n{said[-3000:]}"
        return said

    def start(self, arguments: str, name: str) -> Background:
        """Start the command beside the test."""
        # A shell's background processes ignore Ctrl-C, unless told otherwise.
        command = f"env --default-signal=INT nc-medfl {arguments} >{name}.out 2>&1 & echo $!"
        code, pid = self.shell.run(f"{{ {command}; }}")
        assert code == 0, pid
        return Background(self, int(pid), self.folder / f"{name}.out")

    def processes(self, *words: str) -> list[str]:
        """Command lines with all the words, of every process in the namespace."""
        _, listed = self.shell.run("for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done 2>/dev/null")
        return [line for line in listed.splitlines() if all(word in line for word in words)]

    def pids(self, *words: str) -> list[int]:
        """Numbers, within the namespace, of the processes whose command line has all the words."""
        _, listed = self.shell.run(
            "for d in /proc/[0-9]*; do echo ${d#/proc/} $(tr '\\0' ' ' <$d/cmdline); done 2>/dev/null"
        )
        return [int(line.split()[0]) for line in listed.splitlines() if all(word in line for word in words)]

    def kill(self, signal: str, *words: str) -> None:
        """Send a signal to all of them; there must be one."""
        pids = self.pids(*words)
        assert pids, words
        self.shell.run(f"kill -{signal} {' '.join(map(str, pids))}")

    def nothing_left(self, *words: str, seconds: float = 90) -> bool:
        """Whether no process with the words is left, after a while at most."""
        return wait_until(lambda: not self.processes(*words), seconds)


class Background:
    """A command that runs beside the test."""

    def __init__(self, place: Place, pid: int, output: Path) -> None:
        self._place = place
        self.pid = pid
        self.output = output

    def said(self) -> str:
        """Its output so far."""
        return self.output.read_text(encoding="utf-8") if self.output.exists() else ""

    def wait_for(self, text: str, seconds: float = 1500) -> None:
        """Wait until it says something."""
        assert wait_until(lambda: text in self.said(), seconds), self.said()[-3000:]

    def signal(self, name: str) -> None:
        """Send it a signal."""
        assert self._place.shell.run(f"kill -{name} {self.pid}")[0] == 0

    def end(self, timeout: float = 1500) -> int:
        """Its exit code, once it has ended."""
        return self._place.shell.run(f"wait {self.pid}", timeout)[0]


def make_site(folder: Path, name: str, seed: int, size: int = 32) -> Any:
    """A tiny site that trains within FLARE's client process."""
    store = tiny_site(folder, name, seed=seed, images=80, size=size)
    path = folder / name / "site.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "trainer": "inline"}))
    return store


def provision(place: Place, workspace: str, sites: Sequence[str] = SITES, host: str = "localhost") -> Path:
    """Make startup kits as a coordinator does; give their folder, below the place's."""
    project = yaml.safe_load((REPOSITORY / "site_configs" / "project.yml").read_text())
    project["participants"][0]["default_host"] = host
    others = [p for p in project["participants"] if p["type"] != "client"]
    clients = [{"name": name, "type": "client", "org": name} for name in sites]
    member = {"name": MEMBER, "type": "admin", "org": "coordinator", "role": "member"}
    project["participants"] = [*others, *clients, member]
    (place.folder / "project.yml").write_text(yaml.safe_dump(project))
    code, said = place.shell.run(f"nvflare provision -p project.yml -w {workspace}")
    assert code == 0, said
    return Path(workspace) / project["name"] / "prod_00"


def settle(place: Place, kits: Path, sites: Sequence[str] = SITES, trainer: str = "inline") -> None:
    """Settle server and sites in their kits, as each of them does."""
    place.nc_medfl(f"site init {kits}/server")
    for site in sites:
        place.nc_medfl(f"site init {kits}/{site} --store sites/{site}/store --min-positives 2")
        with (place.folder / kits / site / "local" / "site.yaml").open("a") as stream:
            stream.write(f"trainer: {trainer}\n")  # inline costs no start of a process a task


def options(sites: str | None, out: str, settings: Sequence[str] = SETTINGS) -> str:
    """``--sites``, ``--out`` and ``--set`` for a run."""
    given = [f"--out {shlex.quote(out)}", *(f"--set {text}" for text in settings)]
    return " ".join([*([f"--sites {sites}"] if sites else []), *given])


def record_of(out: Path) -> dict[str, Any]:
    """The ``run.json`` of a run."""
    content: dict[str, Any] = json.loads((out / "run.json").read_text())
    return content


def errors_in(said: str) -> list[str]:
    """The lines by which the command names an error; a traceback counts as one."""
    return re.findall(r"^(?:nc-medfl: .*|Traceback.*)$", said, re.MULTILINE)


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Whether something comes to pass in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True
