"""``run --env prod`` on a provisioned federation: server and clients started by FLARE's own scripts."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from deploy_support import require_namespace, wait_for_text
from flare_support import ADMIN, MEMBER, SETTINGS, SITES, Place, errors_in, options, provision, record_of, settle

from nc_medfl.evaluation import read_metrics

pytestmark = [pytest.mark.integration, pytest.mark.faults]

ROUNDS = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require_namespace()
    made = Place(tmp_path_factory.mktemp("prod"))
    yield made
    made.shell.close()


@pytest.fixture(scope="module")
def kits(place: Place) -> Path:
    """A federation of two hospitals that runs."""
    kits = provision(place, "kits")
    settle(place, kits)
    for name in ("server", *SITES):
        assert place.shell.run(f"{kits}/{name}/startup/start.sh")[0] == 0
    wait_for_text(place.folder / kits / "server" / "log.txt", "Server started")
    for site in SITES:
        wait_for_text(place.folder / kits / site / "log.txt", "Successfully registered client")
    return kits


def prod(job: str, kit: Path | str, out: str, settings: tuple[str, ...] = (), more: str = "") -> str:
    return f"run jobs/{job} --env prod --admin-kit {shlex.quote(str(kit))} {options(None, out, settings)} {more}"


@pytest.fixture(scope="module")
def left_and_fetched(place: Place, kits: Path) -> tuple[str, Path]:
    """A job whose user interrupts the command, and fetches it later with what the command said."""
    # Rounds are told a second late, and the command is to be interrupted before the last.
    run = place.start(prod("fednca_cxr", kits / ADMIN, "left", (*SETTINGS, f"rounds={ROUNDS}")), "left")
    run.wait_for(f"trained round 1 of {ROUNDS}: 2 of 2 sites")
    run.signal("INT")
    assert run.end() == 130, run.said()
    run_ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
    before = record_of(place.folder / "left")
    assert before["outcome"] == "running"
    (line,) = errors_in(run.said())
    said = line.partition("Fetch it later with: nc-medfl ")
    assert "goes on" in said[0]
    place.nc_medfl(said[2])
    assert before["started"] <= record_of(place.folder / "left")["started"] < run_ended
    return said[2], place.folder / "left"


def test_a_job_that_was_left_goes_on_and_is_fetched_as_the_command_said(left_and_fetched: tuple[str, Path]) -> None:
    command, out = left_and_fetched
    record = record_of(out)
    assert (record["outcome"], record["env"], record["sites"]) == ("finished", "prod", list(SITES))
    assert record["job_id"] in command
    # The settings of the job, though the fetching command didn't repeat them.
    assert (record["rounds"], record["settings"]["network"]["backbone"]) == (ROUNDS, "small")
    assert len((out / "updates.csv").read_text().splitlines()) == 1 + 2 * ROUNDS
    assert (out / "report.html").stat().st_size > 0


def test_only_the_sites_own_numbers_come_back(left_and_fetched: tuple[str, Path], place: Place) -> None:
    out = left_and_fetched[1]
    assert set(read_metrics(out)["site"]) == {*SITES, "all"}
    assert not (out / "label_statistics.csv").exists()
    for path in out.glob("*.*"):
        assert str(place.folder / "sites").encode() not in path.read_bytes(), path


def test_an_exported_job_submitted_with_flares_own_api_is_fetched(place: Place, kits: Path) -> None:
    place.nc_medfl("export jobs/label_statistics exported --set federation.min_sites=2")
    meta = json.loads((place.folder / "exported" / "label_statistics" / "meta.json").read_text())
    assert meta["min_clients"] == 2
    assert not list((place.folder / "exported").rglob("custom"))
    assert "there already" in place.nc_medfl("export jobs/label_statistics exported", code=2)
    job = place.folder / "exported" / "label_statistics"
    submit = (
        "from nvflare.fuel.flare_api.flare_api import new_secure_session as session; "
        f"s = session('{ADMIN}', '{kits / ADMIN}'); print(s.submit_job('{job}')); s.close()"
    )
    code, said = place.shell.run(f'python3 -c "{submit}"')
    assert code == 0, said
    job_id = said.split()[-1]
    shutil.copytree(place.folder / kits / ADMIN, place.folder / "a kit")  # a blank in the path, as users have
    told = place.nc_medfl(prod("label_statistics", "a kit", "asked", more=f"--job-id {job_id}"))
    assert "training split, 2 sites" in told
    assert record_of(place.folder / "asked")["outcome"] == "finished"


@pytest.fixture(scope="module")
def foreign(place: Place, kits: Path) -> Path:
    return provision(place, "other") / ADMIN


def test_kits_and_jobs_that_are_refused(place: Place, kits: Path, foreign: Path) -> None:
    moved = shutil.copytree(place.folder / kits / ADMIN, place.folder / "a moved kit")
    path = moved / "startup" / "fed_admin.json"
    content = json.loads(path.read_text())
    content["admin"]["port"] = 9
    path.write_text(json.dumps(content))
    good = kits / ADMIN
    for command, said in {
        prod("label_statistics", kits / MEMBER, "no"): f"{MEMBER} may not submit jobs in cxr_federation",
        prod("label_statistics", foreign, "no"): "shows a certificate of a foreign authority, 'cxr_federation'",
        prod("label_statistics", kits / "alpha", "no"): "the kit of a client",
        prod("label_statistics", "sites", "no"): "not a startup kit",
        prod("label_statistics", moved, "no"): "nothing listens at localhost:9",
        prod("fednca_cxr", good, "no", ("federation.min_sites=3",)): "it needs 3 sites, and 2 connected (alpha, beta)",
        prod("fednca_cxr", good, "no", more="--job-id 5255cca4-5df3-4831-bcfa-1dc45793ab62"): "knows no such job",
        prod("fednca_cxr", good, "no", more="--sites sites"): "--sites: means nothing to --env prod",
    }.items():
        found = errors_in(place.nc_medfl(command, code=2))
        assert len(found) == 1, found
        assert said in found[0], found


def test_a_site_that_fails_is_named_without_its_reason(place: Place, kits: Path) -> None:
    shard = place.folder / "sites" / "beta" / "store" / "shards" / "00000.npy"
    before = shard.read_bytes()
    shard.write_bytes(b"not an array")
    try:
        said = place.nc_medfl(prod("fednca_cxr", kits / ADMIN, "failed", SETTINGS), code=1)
    finally:
        shard.write_bytes(before)
    (line,) = errors_in(said)
    assert line.startswith("nc-medfl: beta: train failed (")
    assert "shard" not in line
    assert str(place.folder) not in line
    assert record_of(place.folder / "failed")["outcome"] == "failed"
