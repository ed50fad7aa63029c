"""Federations on FLARE's simulator in which something is killed, hangs, or is started again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
import yaml

from nc_medfl.federation.processes import family, stop
from tests_support import REPOSITORY, tiny_site

pytestmark = pytest.mark.faults

SETTINGS = ["network.backbone=small", "training.lr=1e-3", "evaluation.resamples=0"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for seed, name in enumerate(("alpha", "beta")):
        tiny_site(folder, name, seed=seed, images=80)
    return folder


def command(sites: Path, out: Path, *settings: str, more: tuple[str, ...] = ()) -> list[str]:
    overrides = [part for text in (*SETTINGS, *settings) for part in ("--set", text)]
    start = [sys.executable, "-m", "nc_medfl.cli.main", "run", "jobs/fednca_cxr", "--env", "sim"]
    return [*start, "--sites", str(sites), "--out", str(out), *overrides, *more]


def run(sites: Path, out: Path, *settings: str, more: tuple[str, ...] = (), code: int = 0) -> str:
    done = subprocess.run(
        command(sites, out, *settings, more=more),
        capture_output=True,
        text=True,
        timeout=900,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stderr


@contextmanager
def started(sites: Path, out: Path, *settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run that goes on beside the test, and is ended with it."""
    process = subprocess.Popen(
        command(sites, out, *settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        stop(family(process.pid))


def wait_until(condition: Callable[[], Any], seconds: float = 600) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass in time")


def processes_of(out: Path, *words: str) -> list[psutil.Process]:
    """Processes with the run's folder and the words on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.pid != os.getpid() and str(out) in line and all(word in line for word in words):
            found.append(process)
    return found


def progress(out: Path) -> list[dict[str, Any]]:
    files = list(out.rglob("progress.jsonl"))
    return [json.loads(line) for line in files[0].read_text().splitlines()] if files else []


def finished_rounds(out: Path) -> int:
    return sum(event["event"] == "round" for event in progress(out))


def weights(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / "model_last.pt", weights_only=True)["state_dict"]
    return state


def outcomes(out: Path, site: str) -> dict[int, str]:
    table = pd.read_csv(out / "updates.csv")
    return {int(row["round"]): row["outcome"] for row in table[table["site"] == site].to_dict("records")}


def assert_same_tables(one: Path, other: Path) -> None:
    for name in ("rounds.csv", "collapse.csv", "updates.csv", "metrics.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_killed_run_resumes_and_ends_as_if_nothing_had_been(sites: Path, tmp_path: Path) -> None:
    # Enough of them that the kill falls among them on a machine that is slow to look.
    rounds = 6
    settings = (f"rounds={rounds}", "training.keep_optimizer=true")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    # One thread for two sites: FLARE starts their clients anew for every task, so what they keep is on disk.
    run(sites, undisturbed, *settings, more=("--threads", "1"))
    assert not (undisturbed / "state").exists()
    with started(sites, killed, *settings) as process:
        wait_until(lambda: list((killed / "state").glob("server/*/*/round-*/state.json")))
        process.kill()
        wait_until(lambda: not processes_of(killed))
    assert 1 <= finished_rounds(killed) < rounds
    changed = run(sites, killed, *settings, "training.lr=2e-3", more=("--resume",), code=2)
    assert "another training.lr (0.001, not 0.002)" in changed
    forgotten = run(sites, killed, *settings, code=2)
    assert re.search(r"holds a run that was cut off after round \d\. Go on from there with --resume", forgotten)
    told = run(sites, killed, *settings, more=("--resume",))
    assert "going on after round" in told
    assert_same_tables(undisturbed, killed)
    expected, found = weights(undisturbed), weights(killed)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    record = json.loads((killed / "run.json").read_text())
    assert (record["outcome"], record["resumed"]) == ("finished", 1)
    assert "has finished" in run(sites, killed, *settings, more=("--resume",), code=2)


def test_a_run_that_was_cut_off_is_given_up_where_that_is_asked_for(sites: Path, tmp_path: Path) -> None:
    kept = tmp_path / "state/server/fednca_cxr/0/round-3"
    kept.mkdir(parents=True)
    (kept / "state.json").write_text("{}")
    (tmp_path / ".nc-medfl").touch()
    assert "after round 3" in run(sites, tmp_path, "rounds=1", code=2)
    assert "Give one of them" in run(sites, tmp_path, "rounds=1", more=("--afresh", "--resume"), code=2)
    assert kept.is_dir()
    assert "going on" not in run(sites, tmp_path, "rounds=1", more=("--afresh",))
    assert sorted(set(pd.read_csv(tmp_path / "updates.csv")["round"])) == [1]


def test_a_run_that_is_interrupted_leaves_nothing_but_its_folder(
    sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    # Python puts sockets there, whose paths may not be long.
    with tempfile.TemporaryDirectory(prefix="t") as name:
        monkeypatch.setenv("TMPDIR", name)
        interrupt(sites, out, Path(name))
    assert not processes_of(out)
    assert json.loads((out / "run.json").read_text())["outcome"] == "failed"


def interrupt(sites: Path, out: Path, scratch: Path) -> None:
    with started(sites, out, "rounds=50") as process:
        wait_until(lambda: finished_rounds(out) >= 1)
        assert list(scratch.glob("*/*/fednca_cxr"))  # FLARE's copy of the job
        process.send_signal(signal.SIGINT)
        assert process.wait(180) == 130
    assert not list(scratch.iterdir())


@pytest.fixture
def sites_with_trainers(tmp_path: Path) -> Path:
    """Two sites that train in processes of their own, even in the simulator."""
    for seed, name in enumerate(("alpha", "beta")):
        tiny_site(tmp_path / "sites", name, seed=seed, images=80)
        path = tmp_path / "sites" / name / "site.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "trainer": "process"}))
    return tmp_path / "sites"


def test_a_killed_trainer_costs_its_update_and_a_hung_one_too(sites_with_trainers: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # A site that was late with a round is late with the next one too, where the machine is slow.
    rounds = 6
    quorum = (f"rounds={rounds}", "federation.min_sites=1", "federation.grace=20", "federation.round_timeout=300")

    def trainer() -> list[psutil.Process]:
        return processes_of(out, "trainer_process", "/beta/")

    with started(sites_with_trainers, out, *quorum) as process:
        wait_until(lambda: finished_rounds(out) >= 1)
        wait_until(trainer)[0].kill()
        wait_until(lambda: finished_rounds(out) >= 2)
        hung = wait_until(trainer)[0]
        hung.suspend()
        wait_until(lambda: finished_rounds(out) >= 3)
        hung.resume()
        assert process.wait(600) == 0
    assert list(outcomes(out, "alpha").values()) == ["accepted"] * rounds
    found = outcomes(out, "beta")
    assert (found[1], found[2], found[3]) == ("accepted", "failed", "late")
    assert "accepted" in [found[number] for number in range(4, rounds + 1)]
    table = pd.read_csv(out / "updates.csv").set_index(["round", "site"])
    assert table.loc[(2, "beta"), "reason"] == "its trainer was killed by signal 9"
    page = (out / "report.html").read_text()
    assert "its trainer was killed by signal 9" in page
    assert re.search(r"1 failed, \d late", page)
    assert set(pd.read_csv(out / "metrics.csv")["site"]) == {"alpha", "beta", "all", "pooled"}


def test_a_site_that_fails_for_good_ends_the_job_with_a_quorum_of_all_and_not_with_one(tmp_path: Path) -> None:
    for seed, name in enumerate(("alpha", "beta")):
        store = tiny_site(tmp_path / "sites", name, seed=seed, images=80)
    for path in (store.folder / "shards").iterdir():
        path.write_bytes(b"not an array")
    quorum = ("rounds=1", "federation.grace=1", "federation.retries=1")
    said = run(tmp_path / "sites", tmp_path / "all", *quorum, "federation.min_sites=2", code=1)
    assert "round 1: 1 usable updates in each of 2 attempts, and federation.min_sites asks for 2" in said
    assert "beta failed (something to mend at the site; see its log)" in said
    table = pd.read_csv(tmp_path / "all" / "flare" / "fednca_cxr" / "server" / "simulate_job" / "nc_medfl/updates.csv")
    assert list(table["outcome"]) == ["unused", "failed"] * 2
