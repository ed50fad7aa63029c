"""What fails in the field, one after another in one federation of real servers and clients, each by a real fault.

Four hospitals and a server by FLARE's own scripts, which start what dies again. One hospital's network is a namespace
of its own, so that it can be cut; one hospital's disk is small, so that it can be filled.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deploy_support import LOOPBACK_UP, cannot, require_namespace, wait_for_text
from flare_support import ADMIN, Background, Place, errors_in, options, provision, record_of, settle, wait_until

from nc_medfl.evaluation import read_metrics
from nc_medfl.federation.keys import CLIENT_ERROR

pytestmark = [pytest.mark.integration, pytest.mark.faults]

#: One that nothing happens to, one whose network is cut, one whose client is killed, one whose disk is full and that
#: leaves for good, and one that joins when the job runs.
STEADY, CUT, KILLED, FULL, LATE = SITES = ("alpha", "beta", "gamma", "delta", "epsilon")
HOST, SERVER_IP, SITE_IP = "fl.test", "10.97.0.1", "10.97.0.2"
ROUNDS = 36
PATIENCE = 900.0
SUBMITTED_AGAIN = "Submitting it again"
SETTINGS = (
    "network.backbone=small",
    "training.lr=1e-3",
    "training.keep_optimizer=true",
    "evaluation.resamples=0",
    f"rounds={ROUNDS}",
    "federation.min_sites=2",
    "federation.grace=4",
    "federation.round_timeout=120",
    "federation.retries=10",
    "federation.restarts=1",
)


@dataclass
class Field:
    """A federation that runs, and what was seen of it."""

    place: Place
    kits: Path
    run: Background
    seen: dict[str, int] = field(default_factory=dict)
    #: Rounds in which the steady site was made to hang.
    hung: set[int] = field(default_factory=set)

    def kit(self, name: str) -> Path:
        return self.place.folder / self.kits / name

    def progress(self) -> list[dict[str, Any]]:
        """What the server has written of the newest job."""
        files = sorted(self.kit("server").rglob("progress.jsonl"), key=lambda path: path.stat().st_mtime)
        lines = files[-1].read_text().splitlines(keepends=True) if files else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def rounds(self) -> list[dict[str, Any]]:
        return [event for event in self.progress() if event["event"] == "round"]

    def wait_for_round(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        """The number of the first round from now on of which something is true."""
        first = len(self.rounds())

        def found() -> list[dict[str, Any]]:
            return [event for event in self.rounds()[first:] if wanted(event["sites"])]

        def job_lost() -> bool:
            return SUBMITTED_AGAIN in self.run.said()

        wait_until(lambda: found() or job_lost(), PATIENCE)
        assert not job_lost(), f"the job failed before its server was killed:\n{self.run.said()}"
        assert found(), f"{self.rounds()[-3:]}\n{self.run.said()[-2000:]}"
        return int(found()[0]["round"])

    def wait_for(self, site: str, *outcomes: str) -> int:
        return self.wait_for_round(lambda sites: sites.get(site) in outcomes)


def start(place: Place, kits: Path, name: str) -> None:
    assert place.shell.run(f"{kits}/{name}/startup/start.sh")[0] == 0


def start_apart(place: Place, kits: Path, name: str) -> None:
    """Start a client in a network namespace of its own, joined to the server's by one pair of interfaces."""
    inner = (
        f"python3 -c {shlex.quote(LOOPBACK_UP)}; echo $$ >{name}.pid; until [ -e {name}.go ]; do sleep 0.1; done; "
        f"{kits}/{name}/startup/start.sh; sleep 100000"
    )
    place.shell.run(f"unshare --net bash -c {shlex.quote(inner)} &")
    wait_for_text(place.folder / f"{name}.pid", "\n")
    pid = (place.folder / f"{name}.pid").read_text().strip()
    for command in (
        f"ip link add v0 type veth peer name v1 netns {pid}",
        f"ip address add {SERVER_IP}/24 dev v0",
        "ip link set v0 up",
        f"nsenter --target {pid} --net ip address add {SITE_IP}/24 dev v1",
        f"nsenter --target {pid} --net ip link set v1 up",
        f"touch {name}.go",
    ):
        code, said = place.shell.run(command)
        assert code == 0, f"{command}: {said}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require_namespace()
    if not shutil.which("ip"):
        cannot("no 'ip' (iproute2) here, and one site's network must be cut")
    made = Place(tmp_path_factory.mktemp("field"), SITES)
    (made.folder / "hosts").write_text(f"127.0.0.1 localhost\n{SERVER_IP} {HOST}\n")
    code, said = made.shell.run("mount --bind hosts /etc/hosts")
    if code:
        made.shell.close()
        cannot(f"no mount permitted here ({said.strip()[-80:]})")
    yield made
    made.shell.close()


@pytest.fixture(scope="module")
def kits(place: Place) -> Path:
    kits = provision(place, "kits", SITES, host=HOST)
    settle(place, kits, SITES)
    disk = place.folder / kits / FULL / "nc_medfl_state"
    disk.mkdir()
    code, said = place.shell.run(f"mount -t tmpfs -o size=16m none {disk}")
    assert code == 0, said
    start(place, kits, "server")
    wait_for_text(place.folder / kits / "server" / "log.txt", "Server started")
    start_apart(place, kits, CUT)
    for name in (STEADY, KILLED, FULL):
        start(place, kits, name)
    for name in (STEADY, CUT, KILLED, FULL):
        wait_for_text(place.folder / kits / name / "log.txt", "Successfully registered client")
    return kits


@pytest.fixture(scope="module")
def ended(place: Place, kits: Path) -> Field:
    """The federation after all that happens to it; each fault begins when the one before is over."""
    command = f"run jobs/fednca_cxr --env prod --admin-kit {kits}/{ADMIN} {options(None, 'run', SETTINGS)}"
    here = Field(place, kits, place.start(command, "run"))
    here.run.wait_for("trained round 1 of", PATIENCE)
    for fault in (
        hang_while_another_joins,
        fill_the_disk,
        cut_the_network,
        kill_a_client,
        leave_for_good,
        kill_the_server,
    ):
        began = time.monotonic()
        fault(here)
        print(f"{fault.__name__}: {time.monotonic() - began:.0f} s, after round {len(here.rounds())}")
    code = here.run.end(1800)
    assert code == 0, here.run.said()[-3000:]
    return here


def job_process(here: Field, site: str) -> tuple[str, ...]:
    return ("worker_process", f"{here.kits}/{site} ")


@contextmanager
def one_hangs(here: Field) -> Iterator[None]:
    """Let the steady site hang.

    Rounds then wait for it in vain, so few of them pass however long it takes a client to start.
    """
    here.place.kill("STOP", *job_process(here, STEADY))
    first = here.wait_for(STEADY, "late", "missing")
    yield
    here.place.kill("CONT", *job_process(here, STEADY))
    here.hung.update(range(first, here.wait_for(STEADY, "accepted")))


def hang_while_another_joins(here: Field) -> None:
    with one_hangs(here):
        start(here.place, here.kits, LATE)
        wait_for_text(here.kit(LATE) / "log.txt", "Successfully registered client", PATIENCE)


def fill_the_disk(here: Field) -> None:
    ballast = here.kit(FULL) / "nc_medfl_state" / "ballast"
    here.place.shell.run(f"dd if=/dev/zero of={ballast} bs=4k")
    here.seen["full"] = here.wait_for(FULL, "failed")
    here.place.shell.run(f"rm {ballast}")
    here.seen["emptied"] = here.wait_for(FULL, "accepted")


def cut_the_network(here: Field) -> None:
    assert here.place.shell.run("ip link set v0 down")[0] == 0
    here.seen["cut"] = here.wait_for(CUT, "late", "missing")
    time.sleep(5)
    assert here.place.shell.run("ip link set v0 up")[0] == 0
    here.seen["mended"] = here.wait_for(CUT, "accepted")


def registrations(here: Field, site: str) -> int:
    return (here.kit(site) / "log.txt").read_text(errors="replace").count("Successfully registered client")


def kill_a_client(here: Field) -> None:
    before = registrations(here, KILLED)
    here.place.kill("KILL", "nvflare.private", f"{here.kits}/{KILLED} ")
    here.seen["killed"] = here.wait_for(KILLED, "late", "missing")
    with one_hangs(here):  # until FLARE's script has started it again
        assert wait_until(lambda: registrations(here, KILLED) > before, PATIENCE)


def leave_for_good(here: Field) -> None:
    # The script that would start it again, and nothing else: a client that outlives its job process tells the server,
    # which then fails the job.
    here.place.kill("KILL", f"{here.kits}/{FULL}/startup/sub_start.sh")
    here.place.kill("KILL", "nvflare.private", f"{here.kits}/{FULL} ")
    here.seen["left"] = here.wait_for(FULL, "late", "missing")


def kill_the_server(here: Field) -> None:
    here.seen["finished before"] = len(here.rounds())
    here.place.kill("KILL", "nvflare.private", f"{here.kits}/server ")
    here.run.wait_for(SUBMITTED_AGAIN, PATIENCE)


@pytest.fixture(scope="module")
def updates(ended: Field) -> pd.DataFrame:
    return pd.read_csv(ended.place.folder / "run" / "updates.csv")


def outcomes(updates: pd.DataFrame, site: str) -> dict[int, str]:
    return {int(row["round"]): row["outcome"] for row in updates[updates["site"] == site].to_dict("records")}


def gone_on_after(ended: Field) -> int:
    (number,) = re.findall(r"going on after round (\d+) of", ended.run.said())
    return int(number)


def test_every_round_is_there_once_and_the_site_that_nothing_kept_away_is_in_it(
    ended: Field, updates: pd.DataFrame
) -> None:
    assert sorted(set(updates["round"])) == [*range(1, ROUNDS + 1)]
    assert not updates.duplicated(["round", "site"]).any()
    record = record_of(ended.place.folder / "run")
    assert (record["outcome"], record["resumed"]) == ("finished", 1)
    assert (updates[updates["outcome"] == "accepted"].groupby("round")["site"].count() >= 2).all()


def test_a_client_that_hangs_costs_its_updates_until_it_wakes(ended: Field, updates: pd.DataFrame) -> None:
    found = outcomes(updates, STEADY)
    away = {number for number, outcome in found.items() if outcome != "accepted"}
    assert away
    assert away <= ended.hung


def test_a_full_disk_costs_updates_until_there_is_room(ended: Field, updates: pd.DataFrame) -> None:
    rows = updates[updates["site"] == FULL].set_index("round")
    assert rows.loc[ended.seen["full"], "reason"] == "disk full"
    assert rows.loc[ended.seen["emptied"], "outcome"] == "accepted"


def test_a_network_that_is_cut_costs_updates_until_it_is_mended(ended: Field, updates: pd.DataFrame) -> None:
    found, seen = outcomes(updates, CUT), ended.seen
    assert found[seen["cut"]] in ("late", "missing")
    assert found[seen["mended"]] == "accepted"
    assert all(found[number] == "accepted" for number in range(1, seen["cut"] - 1))


def test_a_client_that_is_killed_is_started_again_and_in_with_the_next_job(ended: Field, updates: pd.DataFrame) -> None:
    found, seen = outcomes(updates, KILLED), ended.seen
    restarted = gone_on_after(ended)
    assert {found[number] for number in range(seen["killed"], restarted + 1)} <= {"late", "missing"}
    assert {found[number] for number in range(restarted + 1, ROUNDS + 1)} == {"accepted"}


def test_a_client_that_joins_late_is_in_with_the_next_job(ended: Field, updates: pd.DataFrame) -> None:
    assert sorted(outcomes(updates, LATE)) == [*range(gone_on_after(ended) + 1, ROUNDS + 1)]


def test_a_site_that_leaves_for_good_is_missing_and_the_others_go_on(ended: Field, updates: pd.DataFrame) -> None:
    found = outcomes(updates, FULL)
    assert {found[number] for number in range(ended.seen["left"], gone_on_after(ended) + 1)} <= {"late", "missing"}
    assert max(found) == gone_on_after(ended)
    assert set(read_metrics(ended.place.folder / "run")["site"]) == {STEADY, CUT, KILLED, LATE, "all"}


def test_a_server_that_is_killed_loses_one_round_at_most(ended: Field) -> None:
    assert gone_on_after(ended) >= ended.seen["finished before"] - 1
    said = ended.run.said()
    assert said.count("submitted job") == 2
    assert "the server was started again while it ran, and FLARE does not take it up" in said


def test_what_happened_stands_in_the_report(ended: Field) -> None:
    page = (ended.place.folder / "run" / "report.html").read_text()
    assert "disk full" in page
    assert "missing" in page


def test_what_a_sites_policy_denies_is_refused_at_the_site_with_the_reason(ended: Field) -> None:
    kit = ended.kits / ADMIN
    settings = ("network.backbone=small", "rounds=1", "release.min_positives=1")
    said = ended.place.nc_medfl(
        f"run jobs/fednca_cxr --env prod --admin-kit {kit} {options(None, 'denied', settings)}", code=1
    )
    (line,) = errors_in(said)
    assert "train failed (refused by the site (the job asks for class statistics that it withholds))" in line
    assert "release" not in line  # which of its settings denies it is for the site to know
    files = [path for site in SITES for path in ended.kit(site).rglob(CLIENT_ERROR)]
    told = [json.loads(path.read_text())["message"] for path in files]
    assert any("release.min_positives is 1, privacy.min_positives 2" in text for text in told), told
