"""The commands of docs/how-to/deploy.md as they stand, on real FLARE processes, and kits of a foreign authority."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deploy_support import Shell, require_namespace, wait_for_text

from nc_medfl.labels import load_vocabulary
from tests_support import REPOSITORY, tiny_store

pytestmark = [pytest.mark.integration, pytest.mark.faults]

PAGE = REPOSITORY / "docs" / "how-to" / "deploy.md"
SITES = ("st_mary", "klinikum_nord", "harbour_clinic")
KITS = Path("kits") / "cxr_federation" / "prod_00"


def commands_of_the_page() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


class Place:
    """A folder that looks like a clone after ``make demo``, and a shell in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("jobs", "site_configs"):
            shutil.copytree(REPOSITORY / name, folder / name)
        for seed, site in enumerate(SITES):
            tiny_store(folder / "demo-run" / "sites" / site / "store", images=80, seed=seed, site=site)
        home = folder / "home"
        home.mkdir()
        # The same interpreter by the names that the page and FLARE's scripts use.
        programs = Path(sys.executable).parent
        environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        self.shell = Shell(folder, environment)

    def kit(self, name: str) -> Path:
        return self.folder / KITS / name

    def check(self, kit: Path) -> tuple[int, dict[str, dict[str, Any]]]:
        code, output = self.shell.run(f"nc-medfl check --kit {kit} --json 2>/dev/null")
        return code, {result["name"]: result for result in json.loads(output)["checks"]}


def wait_for_start(place: Place, command: str) -> None:
    if "/startup/start.sh" in command:
        kit = place.folder / command.partition("/startup/")[0]
        says = "Server started" if kit.name == "server" else "Successfully registered client"
        wait_for_text(kit / "log.txt", says)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require_namespace()
    made = Place(tmp_path_factory.mktemp("clone"))
    yield made
    made.shell.close()


@pytest.fixture(scope="module")
def deployed(place: Place) -> dict[str, tuple[int, str]]:
    """Every command of the page up to the last step, which stops what runs: exit code and output."""
    done: dict[str, tuple[int, str]] = {}
    submits = "--admin-kit" in place.shell.run("nc-medfl run --help")[1]
    for command in commands_of_the_page():
        if ".venv/bin/activate" in command or (" --env prod " in command and not submits):
            continue
        if "stop_fl.sh" in command:
            break
        done[command] = place.shell.run(command, timeout=900)
        assert done[command][0] == 0, f"{command}\n{done[command][1][-3000:]}"
        wait_for_start(place, command)
    return done


def test_every_command_of_the_page_runs(deployed: dict[str, tuple[int, str]]) -> None:
    text = "\n".join(deployed)
    for part in (
        "nvflare provision",
        "site init",
        "nc-medfl check",
        "server/startup/start.sh",
        "st_mary/startup/start.sh",
    ):
        assert part in text


def test_check_finds_a_provisioned_site_ready(deployed: dict[str, tuple[int, str]], place: Place) -> None:
    code, found = place.check(place.kit("st_mary"))
    assert code == 0, found
    assert not [result for result in found.values() if result["outcome"] not in {"ok", "warning"}]
    assert "takes this kit's certificate" in found["admission"]["text"]
    assert "s of the server's" in found["clock"]["text"]
    assert found["authorization"]["text"].endswith("refused for every role")


def test_check_prints_no_key_of_a_patient_or_image(deployed: dict[str, tuple[int, str]], place: Place) -> None:
    from nc_medfl.data.store import open_store

    manifest = open_store(place.folder / "demo-run" / "sites" / "st_mary" / "store").manifest
    command = f"nc-medfl check --kit {KITS}/st_mary --job jobs/fednca_cxr"
    output = deployed[command][1] + place.shell.run(command + " --json")[1]
    assert all(finding in output for finding in load_vocabulary("nih14").findings)
    assert not [key for column in ("patient_key", "sample_id") for key in manifest[column] if key in output]


def test_a_server_keeps_its_jobs_in_its_kit(deployed: dict[str, tuple[int, str]], place: Place) -> None:
    resources = (place.kit("server") / "local" / "resources.json").read_text()
    assert "/tmp/nvflare" not in resources
    assert (place.kit("server") / "storage").is_dir()


def test_provisioning_again_keeps_the_authority(deployed: dict[str, tuple[int, str]], place: Place) -> None:
    code, output = place.shell.run("nvflare provision -p site_configs/project.yml -w kits --force")
    assert code == 0, output
    fresh = place.kit("server").parent.parent / "prod_01" / "st_mary" / "startup" / "rootCA.pem"
    assert fresh.read_bytes() == (place.kit("st_mary") / "startup" / "rootCA.pem").read_bytes()


#: Submits a job by FLARE's own interface, and prints its last status. Arguments: folder, kit, "plain" or "custom".
SUBMIT = """
import os, sys, time, traceback
from pathlib import Path
folder, kit, kind = sys.argv[1:]
sys.argv = sys.argv[:1]
from nc_medfl.federation.jobs import read_job
from nc_medfl.federation.recipe import FedNCARecipe
from nvflare.fuel.flare_api.flare_api import new_secure_session
try:
    settings = read_job("jobs/fednca_cxr", ["rounds=1", "network.backbone=small", "image_size=32"])
    FedNCARecipe(settings, min_clients=3).export(folder)
    job = Path(folder).resolve() / settings.name
    if kind == "custom":
        (job / "app" / "custom").mkdir()
        (job / "app" / "custom" / "more.py").write_text("VALUE = 1")
    session = new_secure_session("admin@example.org", kit)
    number = session.submit_job(str(job))
    status = "SUBMITTED"
    while not status.startswith("FINISHED"):
        time.sleep(2)
        status = session.get_job_meta(number)["status"]
    print("status:", status, flush=True)
    session.close()
except Exception:
    traceback.print_exc()
finally:
    os._exit(0)  # threads of FLARE's session would hold the process
"""


def last_status(place: Place, kind: str) -> str:
    (place.folder / "submit.py").write_text(SUBMIT)
    command = f"python submit.py export-{kind} {place.kit('admin@example.org')} {kind}"
    output = place.shell.run(command, timeout=900)[1]
    found = re.findall(r"^status: (\S+)$", output, re.MULTILINE)
    assert found, output[-3000:]
    return str(found[-1])


def test_hospitals_that_forbid_custom_code_run_our_job(deployed: dict[str, tuple[int, str]], place: Place) -> None:
    policy = json.loads((place.kit("st_mary") / "local" / "authorization.json").read_text())
    assert {rights["byoc"] for rights in policy["permissions"].values()} == {"none"}
    assert last_status(place, "plain") == "FINISHED:COMPLETED"


def test_hospitals_that_forbid_custom_code_refuse_it(deployed: dict[str, tuple[int, str]], place: Place) -> None:
    assert last_status(place, "custom") != "FINISHED:COMPLETED"
    log = (place.kit("server") / "log.txt").read_text()
    assert all(f"{site}: NVFLARE_ERROR: BYOC not permitted" in log for site in SITES)


@pytest.fixture(scope="module")
def foreign(place: Place, deployed: dict[str, tuple[int, str]]) -> Path:
    """A hospital's kit of the same names from a second provisioning."""
    code, output = place.shell.run("nvflare provision -p site_configs/project.yml -w other")
    assert code == 0, output
    kit = place.folder / "other" / "cxr_federation" / "prod_00" / "klinikum_nord"
    store = place.folder / "demo-run" / "sites" / "klinikum_nord" / "store"
    code, output = place.shell.run(f"nc-medfl site init {kit} --store {store} --min-positives 2")
    assert code == 0, output
    return kit


def test_check_names_the_foreign_authority_of_a_server(foreign: Path, place: Place) -> None:
    code, found = place.check(foreign)
    assert code == 1
    assert [name for name, result in found.items() if result["outcome"] == "failed"] == ["server's authority"]
    assert "foreign authority, 'cxr_federation'" in found["server's authority"]["text"]
    assert "Ask the coordinator" in found["server's authority"]["remedy"]
    # The two keys differ, and the server's is the one that a kit of its own provisioning names.
    ours = re.findall(r"key ([0-9a-f]{16})", place.check(place.kit("st_mary"))[1]["certificate"]["text"])
    theirs, own = re.findall(r"key ([0-9a-f]{16})", found["server's authority"]["text"])
    assert [theirs] == ours
    assert own != theirs


def test_check_says_that_the_server_refuses_a_foreign_certificate(foreign: Path, place: Place, tmp_path: Path) -> None:
    # Trusts the right authority, so that only the server's word stands against it.
    kit = shutil.copytree(foreign, tmp_path / "mixed")
    shutil.copy(place.kit("st_mary") / "startup" / "rootCA.pem", kit / "startup" / "rootCA.pem")
    code, found = place.check(kit)
    assert code == 1
    failed = [name for name, result in found.items() if result["outcome"] == "failed"]
    assert failed == ["certificate", "admission"]
    assert "files of two kits" in found["certificate"]["text"]
    assert "refuses the certificate" in found["admission"]["text"]
    assert found["server's authority"]["outcome"] == "ok"


def test_flare_itself_lets_a_foreign_client_try_and_never_in(foreign: Path, place: Place) -> None:
    server_log = place.kit("server") / "log.txt"
    joined = server_log.read_text().count("New client klinikum_nord")
    assert place.shell.run(f"{foreign}/startup/start.sh")[0] == 0
    wait_for_text(foreign / "log.txt", "created backbone external connector")
    time.sleep(10)
    assert "Successfully registered" not in (foreign / "log.txt").read_text()
    assert server_log.read_text().count("New client klinikum_nord") == joined
    # Still trying: this is why check has to say it.
    pid = (foreign / "pid.fl").read_text().strip()
    assert place.shell.run(f"kill -0 {pid}")[0] == 0
    place.shell.run(f"echo y | {foreign}/startup/stop_fl.sh")


def test_the_page_stops_what_it_started(place: Place, deployed: dict[str, tuple[int, str]], foreign: Path) -> None:
    for command in commands_of_the_page():
        if "stop_fl.sh" in command:
            code, output = place.shell.run(command)
            assert code == 0, output
    deadline = time.monotonic() + 60
    while "nvflare.private" in (left := place.shell.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")[1]):
        assert time.monotonic() < deadline, left
        time.sleep(1)
