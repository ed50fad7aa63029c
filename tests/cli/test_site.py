"""``nc-medfl site init``: what it writes, asks, and leaves alone."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from nc_medfl.cli.main import app
from nc_medfl.errors import UserError
from nc_medfl.federation.site import find_site_config
from tests_support import REPOSITORY, tiny_store

NAME = "st_mary"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "nc_medfl.cli.main", "site", "init", *map(str, arguments)]


def site_init(*arguments: str | Path, code: int = 0) -> Result:
    """Run the command in this process, where nobody is at the terminal."""
    done = CliRunner().invoke(app, ["site", "init", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, UserError), done.exception
    assert (UserError.exit_code if done.exception else done.exit_code) == code, done.output
    return done


def remark(done: Result) -> str:
    """What a person reads of a mistake."""
    assert "\n" not in str(done.exception)
    return str(done.exception)


def files(kit: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (kit / "local").iterdir()}


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """The parts of a startup kit that are read, in the form that FLARE 2.9 gives them."""
    folder = tmp_path / "kit"
    for name in ("startup", "local"):
        (folder / name).mkdir(parents=True)
    server = {
        "name": "federation",
        "service": {"target": "fl.example.org:8002", "scheme": "http"},
        "identity": "server",
    }
    client = {"servers": [server], "client": {"fqsn": NAME, "connection_security": "mtls"}}
    (folder / "startup" / "fed_client.json").write_text(json.dumps(client))
    resources = {"format_version": 2, "class_allow_list": ["a.b.C"], "components": [{"id": "x", "args": {"n": 0}}]}
    (folder / "local" / "resources.json.default").write_text(json.dumps(resources))
    policy = {"format_version": "1.0", "permissions": {"project_admin": "any", "member": {"view": "any"}}}
    (folder / "local" / "authorization.json.default").write_text(json.dumps(policy))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    tiny_store(tmp_path / "store", images=10)
    return tmp_path / "store"


def test_what_is_written_is_what_the_client_reads(kit: Path, store: Path) -> None:
    options = ["--min-positives", "7", "--device", "cpu", "--threads", "3", "--batch-size", "4"]
    site_init(kit, "--store", os.path.relpath(store, REPOSITORY), *options)
    config = find_site_config(NAME, kit)
    assert config.store == store.resolve()
    assert (config.privacy.min_positives, config.device, config.threads, config.batch_size) == (7, "cpu", 3, 4)
    assert (kit / "local" / "site.yaml").stat().st_mode & 0o777 == 0o600
    resources = json.loads((kit / "local" / "resources.json").read_text())
    assert resources == {
        "format_version": 2,
        "class_allow_list": ["a.b.C", "nc_medfl."],
        "components": [{"id": "x", "args": {"n": 0}}],
    }
    permissions = json.loads((kit / "local" / "authorization.json").read_text())["permissions"]
    assert {role: rights["byoc"] for role, rights in permissions.items()} == {"project_admin": "none", "member": "none"}


def test_a_decision_for_nothing_withheld_stands_in_the_file(kit: Path, store: Path) -> None:
    site_init(kit, "--store", store, "--min-positives", "0")
    assert yaml.safe_load((kit / "local" / "site.yaml").read_text())["privacy"] == {"min_positives": 0}


def test_a_kits_policy_on_code_can_be_kept(kit: Path, store: Path) -> None:
    site_init(kit, "--store", store, "--min-positives", "5", "--custom-code", "keep")
    assert not (kit / "local" / "authorization.json").exists()


def test_settings_that_are_there_are_not_lost(kit: Path, store: Path) -> None:
    site_init(kit, "--store", store, "--min-positives", "5")
    former = files(kit)
    done = site_init(kit, "--store", store, "--min-positives", "6", code=2)
    assert remark(done).endswith("there already, with other settings. Edit it, or give --replace.")
    assert files(kit) == former
    assert "nothing to do" in site_init(kit, "--store", store, "--min-positives", "5").stdout
    assert files(kit) == former
    site_init(kit, "--store", store, "--min-positives", "6", "--replace")
    assert find_site_config(NAME, kit).privacy.min_positives == 6
    assert {name: text for name, text in files(kit).items() if name != "site.yaml"} == {
        name: text for name, text in former.items() if name != "site.yaml"
    }


def test_a_dry_run_says_what_it_would_write_and_writes_nothing(kit: Path, store: Path) -> None:
    former = files(kit)
    done = site_init(kit, "--store", store, "--min-positives", "5", "--dry-run", "--json")
    payload = json.loads(done.stdout)
    assert [Path(path).name for path in payload["files"]] == ["resources.json", "authorization.json", "site.yaml"]
    assert payload["written"] is False
    told = site_init(kit, "--store", store, "--min-positives", "5", "--dry-run").stdout
    assert "nothing was written" in told
    assert "next:" not in told
    assert files(kit) == former


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{kit}"], "--store is missing, and nobody is there to ask"),
        (["{kit}", "--store", "{store}"], "--min-positives is missing"),
        (["{kit}", "--store", "nowhere", "--min-positives", "5"], "nowhere: no such folder"),
        (["{kit}", "--store", "{kit}", "--min-positives", "5"], "so not a store"),
        (["{kit}", "--store", "{store}", "--min-positives", "5", "--device", "gpu"], "device: "),
        (["{store}", "--store", "{store}", "--min-positives", "5"], "not a startup kit"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    kit: Path, store: Path, arguments: list[str], message: str
) -> None:
    former = files(kit)
    done = site_init(*(text.format(kit=kit, store=store) for text in arguments), code=2)
    assert message in remark(done)
    assert files(kit) == former


def test_a_damaged_resources_file_stops_before_anything_is_written(kit: Path, store: Path) -> None:
    (kit / "local" / "resources.json").write_text("{")
    former = files(kit)
    done = site_init(kit, "--store", store, "--min-positives", "5", code=2)
    assert "resources.json: not valid JSON" in remark(done)
    assert files(kit) == former


def test_a_servers_kit_has_no_store(kit: Path, store: Path) -> None:
    (kit / "startup" / "fed_client.json").unlink()
    server = {"name": "federation", "service": {"target": "server:8002"}, "admin_server": "server"}
    (kit / "startup" / "fed_server.json").write_text(json.dumps({"servers": [server]}))
    done = site_init(kit, "--store", store, code=2)
    assert "a server's kit has no data; leave out --store" in remark(done)
    site_init(kit)
    assert sorted(set(files(kit)) - {"resources.json.default", "authorization.json.default"}) == ["resources.json"]


def answer(process: subprocess.Popen[bytes], terminal: int, answers: list[tuple[str, str]]) -> str:
    """Play the person at the terminal: wait for each question, then type."""
    seen, fresh = "", ""
    for question, text in answers:
        deadline = time.monotonic() + 30
        while question not in fresh:
            assert time.monotonic() < deadline, f"no '{question}' in: {seen}"
            if select.select([terminal], [], [], 0.2)[0]:
                part = os.read(terminal, 4096).decode()
                seen, fresh = seen + part, fresh + part
        fresh = fresh[fresh.index(question) + len(question) :]
        os.write(terminal, f"{text}\n".encode())
    process.wait(30)
    return seen


def test_it_asks_a_person_and_asks_again_after_a_wrong_answer(kit: Path, store: Path) -> None:
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        command(kit), stdin=side, stdout=side, stderr=side, cwd=REPOSITORY, start_new_session=True
    )
    os.close(side)
    answers = [
        ("Store", "/nowhere"),
        ("no such folder", str(store)),
        ("fewer positives than [5]", ""),
        ("Device", "gpu"),
        ("Device", "cpu"),
        ("threads", "2"),
        ("Images a batch", ""),
        ("code of their own?", "n"),
        ("Write this?", "y"),
    ]
    seen = answer(process, terminal, answers)
    os.close(terminal)
    assert process.returncode == 0, seen
    config = find_site_config(NAME, kit)
    assert (config.store, config.privacy.min_positives) == (store.resolve(), 5)
    assert (config.device, config.threads, config.batch_size) == ("cpu", 2, None)
    assert not (kit / "local" / "authorization.json").exists()


def test_a_person_who_says_no_has_nothing_written(kit: Path, store: Path) -> None:
    former = files(kit)
    terminal, side = pty.openpty()
    arguments = command(kit, "--store", store, "--device", "cpu", "--threads", "1", "--batch-size", "2")
    arguments += ["--custom-code", "keep"]
    process = subprocess.Popen(arguments, stdin=side, stdout=side, stderr=side, cwd=REPOSITORY, start_new_session=True)
    os.close(side)
    answer(process, terminal, [("fewer positives than [5]", "3"), ("Write this?", "n")])
    os.close(terminal)
    assert process.returncode == 130
    assert files(kit) == former
