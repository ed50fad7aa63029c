"""``run --env poc``: real servers and clients of FLARE, in a network of their own, and what is left of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from deploy_support import require_namespace
from flare_support import SITES, Place, errors_in, make_site, options, record_of

from nc_medfl.data.store import shard_path
from nc_medfl.evaluation import read_metrics
from tests_support import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.faults]

FLARE = "nvflare.private"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require_namespace()
    made = Place(tmp_path_factory.mktemp("poc"))
    yield made
    made.shell.close()


@pytest.fixture(scope="module")
def two_runs(place: Place) -> tuple[Path, Path, list[str]]:
    """Two POCs at once, one in a folder with a blank, one whose sites take turns; and the ports they said."""
    one = place.start(f"run jobs/fednca_cxr --env poc --threads 1 {options('sites', 'one')}", "one")
    other = place.start(f"run jobs/fednca_cxr --env poc {options('sites', 'the other')}", "other")
    assert one.end() == 0, one.said()
    assert other.end() == 0, other.said()
    ports = [line.rpartition(" ")[2] for run in (one, other) for line in run.said().splitlines() if "on port" in line]
    return place.folder / "one", place.folder / "the other", ports


def test_two_pocs_live_on_one_machine_and_leave_nothing_behind(place: Place, two_runs: tuple[Path, ...]) -> None:
    ports = two_runs[2]
    assert len(set(ports)) == 2
    assert place.nothing_left("nvflare", seconds=0)
    assert place.nothing_left("nc_medfl", seconds=0)


def test_a_run_in_a_poc_leaves_what_one_in_the_simulator_leaves(two_runs: tuple[Path, ...]) -> None:
    for out in two_runs[:2]:
        record = record_of(out)
        assert (record["outcome"], record["env"], record["sites"]) == ("finished", "poc", list(SITES))
        for name in ("report.html", "metrics.csv", "collapse.csv", "label_statistics.csv", "model_best.pt"):
            assert (out / name).stat().st_size > 0, name
        assert set(read_metrics(out)["site"]) == {*SITES, "all", "pooled"}
        updates = pd.read_csv(out / "updates.csv")
        assert [*updates["outcome"]] == ["accepted"] * 4


def test_two_pocs_with_one_seed_come_to_the_same_numbers(two_runs: tuple[Path, ...]) -> None:
    one, other = (read_metrics(out) for out in two_runs[:2])
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)


def test_rounds_are_told_as_they_come(place: Place, two_runs: tuple[Path, ...]) -> None:
    said = (place.folder / "one.out").read_text()
    order = ["POC of 2 sites", "submitted job", "trained round 1 of 2: 2 of 2 sites", "trained round 2 of 2", "chosen:"]
    places = [said.index(text) for text in order]
    assert places == sorted(places)


def commands_of_the_page() -> list[str]:
    text = (REPOSITORY / "docs" / "how-to" / "poc.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line.removeprefix("nc-medfl ") for line in block.splitlines()]


def test_a_poc_is_kept_joined_and_stopped_by_the_commands_of_the_page(place: Place) -> None:
    begin, join, end = commands_of_the_page()
    for seed, name in enumerate(SITES):
        make_site(place.folder / "demo-run" / "sites", name, seed, size=64)  # as the demo's
    home = place.folder / "poc"
    assert "POC of 2 sites" in place.nc_medfl(begin)
    running = place.processes(FLARE, f"{home}/")
    assert len(running) == 3, running  # a server and two clients, and no job's
    assert home.stat().st_mode & 0o777 == 0o700
    assert "joined the POC of alpha, beta" in place.nc_medfl(join)
    assert place.processes(FLARE, f"{home}/") == running
    assert record_of(place.folder / "runs" / "poc")["outcome"] == "finished"

    make_site(place.folder / "others", "alpha", 0)
    make_site(place.folder / "others", "gamma", 1)
    refused = place.nc_medfl(begin.replace("demo-run/sites", "others").replace("runs/labels", "none"), code=2)
    assert "has the sites alpha, beta, and --sites has alpha, gamma" in errors_in(refused)[0]
    assert place.processes(FLARE, f"{home}/") == running

    assert place.nc_medfl(end).strip() == "stopped"
    assert place.nothing_left("nvflare", seconds=0)
    assert place.nc_medfl(end).strip() == "nothing ran there"


@pytest.mark.parametrize(("how", "code"), [("INT", 130), ("KILL", 137)])
def test_a_stopped_command_takes_its_poc_with_it(place: Place, how: str, code: int) -> None:
    out = f"stopped-{how}"
    run = place.start(f"run jobs/fednca_cxr --env poc {options('sites', out)} --set rounds=50", out)
    run.wait_for("trained round 1")
    assert len(place.processes(FLARE)) >= 6  # and a process a job at each
    run.signal(how)
    assert run.end() == code, run.said()
    assert place.nothing_left("nvflare")
    assert place.nothing_left("nc_medfl")
    assert errors_in(run.said()) == (["nc-medfl: stopped."] if how == "INT" else [])
    assert record_of(place.folder / out)["outcome"] == ("failed" if how == "INT" else "running")


def test_a_run_whose_server_is_killed_goes_on_in_another_poc(place: Place) -> None:
    # Many: they are told a second late, and the server is to be killed before the last.
    rounds = 15
    settings = f"{options('sites', 'cut')} --set rounds={rounds}"
    run = place.start(f"run jobs/fednca_cxr --env poc {settings}", "cut")
    run.wait_for("trained round 2")
    place.kill("KILL", "server_train")
    assert run.end() == 1
    (line,) = errors_in(run.said())
    assert "the POC's server ended before the job did. Go on with --resume" in line
    assert record_of(place.folder / "cut")["outcome"] == "failed"
    assert place.nothing_left("nvflare")
    said = place.nc_medfl(f"run jobs/fednca_cxr --env poc --resume {settings}")
    assert "going on after round" in said
    updates = pd.read_csv(place.folder / "cut" / "updates.csv")
    assert [*updates["round"]] == [number for number in range(1, rounds + 1) for _ in SITES]


def test_an_error_at_a_site_ends_the_command_with_that_error(place: Place) -> None:
    make_site(place.folder / "broken", "alpha", 0)
    store = make_site(place.folder / "broken", "beta", 1)
    shard_path(store.folder, 0).write_bytes(b"not an array")
    said = place.nc_medfl(f"run jobs/fednca_cxr --env poc {options('broken', 'failed')}", code=2)
    assert len(errors_in(said)) == 1
    assert errors_in(said)[0].startswith("nc-medfl: beta: ")
    assert "shard 00000.npy is missing or damaged" in errors_in(said)[0]
    assert record_of(place.folder / "failed")["outcome"] == "failed"
    assert place.nothing_left("nvflare", seconds=0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--keep-poc --sites sites", "--keep-poc: a POC that is kept needs a folder of its own"),
        ("--poc-dir 'a b' --sites sites", "FLARE can't live under a path with blanks"),
        ("--poc-dir home --sites sites", ""),
        ("", "--env poc: --sites is missing"),
        ("--sites sites --admin-kit kit", "--admin-kit: means nothing to --env poc"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(place: Place, given: str, said: str) -> None:
    (place.folder / "home" / "something").touch()
    found = errors_in(place.nc_medfl(f"run jobs/fednca_cxr --env poc --out none {given}", code=2))
    assert len(found) == 1
    assert said in found[0]
    assert place.nothing_left("nvflare", seconds=0)
