"""The preflight at a site: each check on what is well and on what is not."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import namedtuple
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from tls_support import NOW, Authority
from typer.testing import CliRunner

from nc_medfl.cli.main import app
from nc_medfl.config import JobSettings, SiteConfig, load_job_settings
from nc_medfl.data.store import open_store, shard_path
from nc_medfl.errors import UserError
from nc_medfl.federation.kit import Kit, open_kit
from nc_medfl.federation.preflight import certificate, data, machine, policy, preflight
from nc_medfl.federation.preflight.certificate import Credentials, check_certificate, check_clock, read_credentials
from nc_medfl.labels import load_vocabulary
from tests_support import REPOSITORY, tiny_site, tiny_store

DAY = timedelta(days=1)


@pytest.fixture
def job() -> JobSettings:
    return load_job_settings(REPOSITORY / "jobs" / "fednca_cxr" / "job.yaml")


def config_of(folder: Path, **more: object) -> SiteConfig:
    return SiteConfig(name="st_mary", store=folder, **more)  # type: ignore[arg-type]


# Settings


def test_another_sites_settings_and_wrong_ones_fail(tmp_path: Path) -> None:
    tiny_site(tmp_path, "st_mary", images=10)
    path = tmp_path / "st_mary" / "site.yaml"
    assert data.check_config(path, "st_mary")[0].outcome == "ok"
    assert "but the kit is of 'other'" in data.check_config(path, "other")[0].text
    path.write_text("name: st_mary\nstore: store\nbatchsize: 4\n")
    result, config = data.check_config(path, "st_mary")
    assert (result.outcome, config) == ("failed", None)
    assert "line 3: unknown key 'batchsize'. Did you mean 'batch_size'?" in result.text
    assert data.check_config(tmp_path / "none.yaml", None)[0].outcome == "failed"


# Store


def test_a_whole_store_of_the_jobs_findings_is_ok(tmp_path: Path, job: JobSettings) -> None:
    tiny_store(tmp_path, images=20)
    result, store = data.check_store(config_of(tmp_path), job)
    assert result.outcome == "ok"
    assert store is not None
    assert "20 images of 32 px, nih14 (14 findings), as the job's" in result.text


def test_other_findings_than_the_jobs_fail(tmp_path: Path, job: JobSettings) -> None:
    tiny_store(tmp_path, images=20, vocabulary=load_vocabulary("chexpert13"))
    assert "labelled for 'chexpert13', the job for 'nih14'" in data.check_store(config_of(tmp_path), job)[0].text
    assert data.check_store(config_of(tmp_path), None)[0].outcome == "ok"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def shorten(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def shrink(path: Path) -> None:
    np.save(path, np.load(path)[:, ::2, ::2])


@pytest.mark.parametrize("harm", [Path.unlink, cut, shorten, shrink])
def test_a_shard_that_lacks_anything_fails(tmp_path: Path, harm: object) -> None:
    tiny_store(tmp_path, images=20)
    harm(shard_path(tmp_path, 0))  # type: ignore[operator]
    result, _ = data.check_store(config_of(tmp_path), None)
    assert result.outcome == "failed"
    assert "00000.npy" in result.text
    assert result.text.endswith("Prepare again.")


def test_no_store_fails(tmp_path: Path) -> None:
    assert data.check_store(config_of(tmp_path / "none"), None)[0].outcome == "failed"


# Positives


def test_positives_are_counted_by_split_and_few_are_warned_of(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, images=60, missing=["Hernia"])
    table = pd.read_parquet(tmp_path / "manifest.parquet")
    results = {result.name: result for result in data.check_positives(store, 3)}
    assert list(results) == ["positives train", "positives val", "positives test"]
    for split in ("train", "val", "test"):
        rows = table[table["split"] == split]
        result = results[f"positives {split}"]
        counts = {name: int((rows[f"label:{name}"] == 1).sum()) for name in store.vocabulary.findings}
        for name, count in counts.items():
            assert f"{name} {count}" in result.text
        few = [name for name, count in counts.items() if count < 3]
        assert "Hernia" in few
        assert f"Under 3: {', '.join(few)};" in result.remedy
        assert result.outcome == "warning"


def test_enough_of_everything_is_ok_and_nothing_to_train_on_fails(tmp_path: Path) -> None:
    full = tiny_store(tmp_path / "full", images=200, prevalence=0.6)
    assert {result.outcome for result in data.check_positives(full, 0)} == {"ok"}
    shares = {"train": 0.0, "val": 0.5, "test": 0.5}
    empty = tiny_store(tmp_path / "empty", images=20, splits=shares)
    assert data.check_positives(empty, 0)[0].outcome == "failed"


# Policy


def test_a_sites_policy_is_asked_about_the_job_that_is_given(tmp_path: Path) -> None:
    tiny_site(tmp_path, "st_mary", images=40)
    path = tmp_path / "st_mary" / "site.yaml"
    before = path.read_text()
    given = ["--site-config", path, "--job", REPOSITORY / "jobs" / "fedavg_cxr", "--json"]

    def policy_of(*more: object) -> tuple[int, dict[str, str]]:
        code, output = check(*given, *more)
        return code, {c["name"]: c for c in json.loads(output)["checks"]}["policy"]

    code, found = policy_of()
    assert (code, found["outcome"]) == (0, "ok")
    assert found["text"] == "the site takes part in fedavg_cxr (train, fedavg)"
    path.write_text(before + "privacy: {allowed_methods: [fednca], min_positives: 5}\n")
    code, found = policy_of()
    assert (code, found["outcome"]) == (1, "failed")
    assert "the method 'fedavg' is not among privacy.allowed_methods" in found["text"]
    code, found = policy_of("--set", "method=fednca", "--set", "release.min_positives=2")
    assert (code, found["outcome"]) == (1, "failed")
    assert "release.min_positives is 2, privacy.min_positives 5" in found["text"]
    assert policy_of("--set", "method=fednca")[0] == 0
    _, output = check("--site-config", path, "--json")
    assert "policy" not in {c["name"] for c in json.loads(output)["checks"]}


# Machine


@pytest.mark.parametrize(("gib", "outcome"), [(0.5, "failed"), (2, "warning"), (20, "ok")])
def test_room_is_judged_by_what_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gib: float, outcome: str
) -> None:
    free = int(gib * 2**30)
    usage = namedtuple("usage", "total used free")
    memory = namedtuple("memory", "available")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(free, 0, free))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(free))
    monkeypatch.setattr(machine, "_container_memory", lambda: 2**60)
    for result in (machine.check_disk(tmp_path / "not" / "yet"), machine.check_memory()):
        assert result.outcome == outcome
        assert f"{gib:.1f} GiB" in result.text
        assert bool(result.remedy) == (outcome != "ok")


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert machine._container_memory(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._container_memory(tmp_path) > psutil.virtual_memory().total
    assert machine._container_memory(tmp_path / "none") > psutil.virtual_memory().total


def test_a_device_that_is_not_there_fails(tmp_path: Path) -> None:
    assert machine.check_device(config_of(tmp_path, device="cpu")).outcome == "ok"
    result = machine.check_device(config_of(tmp_path, device="cuda:99"))
    assert result.outcome == "failed"
    assert "Set device: auto" in result.text
    many = machine.check_device(config_of(tmp_path, device="cpu", threads=(os.cpu_count() or 1) + 1))
    assert many.outcome == "warning"


def test_a_store_of_another_version_is_warned_of(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, images=10)
    assert machine.check_packages(store).outcome == "ok"
    info = json.loads((tmp_path / "prepare.json").read_text())
    (tmp_path / "prepare.json").write_text(json.dumps({**info, "package_version": "0.0.1"}))
    result = machine.check_packages(open_store(tmp_path))
    assert result.outcome == "warning"
    assert "prepared by nc_medfl 0.0.1" in result.text


def test_another_python_than_ours_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert machine.check_python(tmp_path).outcome == "ok"
    other = tmp_path / "bin" / "python3"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    result = machine.check_python(tmp_path)
    assert result.outcome == "failed"
    assert f"start.sh runs {other}" in result.text
    other.unlink()
    assert "none on the PATH" in machine.check_python(tmp_path).text


# Certificate and clock


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def signed_kit(authority: Authority, folder: Path, name: str = "st_mary") -> tuple[Kit, Credentials]:
    authority.write(folder / "startup", "client", authority.sign(name))
    kit = Kit(folder, "client", "st_mary", "federation", "localhost", 8002, "http", "mtls", "server")
    return kit, read_credentials(kit)


def test_a_certificate_is_ok_until_thirty_days_before_its_end(authority: Authority, tmp_path: Path) -> None:
    kit, credentials = signed_kit(authority, tmp_path)
    found = [check_certificate(kit, credentials, authority.end - days * DAY) for days in (100, 31, 29, -1)]
    assert [result.outcome for result in found] == ["ok", "ok", "warning", "failed"]
    assert "(100 days)" in found[0].text
    assert "29 days left" in found[2].text
    assert "expired" in found[3].text


def test_files_of_two_kits_are_noticed(authority: Authority, tmp_path: Path) -> None:
    kit, _ = signed_kit(authority, tmp_path)
    other, _ = signed_kit(Authority(), tmp_path / "other")
    startup = kit.startup
    former = {path.name: path.read_bytes() for path in startup.iterdir()}
    for name, text in [("rootCA.pem", "not signed by the authority"), ("client.key", "is not the key of")]:
        (startup / name).write_bytes((other.startup / name).read_bytes())
        result = check_certificate(kit, read_credentials(kit), NOW)
        assert result.outcome == "failed"
        assert text in result.text
        (startup / name).write_bytes(former[name])
    assert check_certificate(kit, read_credentials(kit), NOW).outcome == "ok"
    stranger, credentials = signed_kit(authority, tmp_path / "stranger", name="klinikum_nord")
    assert "it is of 'klinikum_nord'" in check_certificate(stranger, credentials, NOW).text


def test_a_key_that_others_can_read_fails_with_the_command_that_mends_it(authority: Authority, tmp_path: Path) -> None:
    kit, credentials = signed_kit(authority, tmp_path)
    kit.key.chmod(0o640)
    result = check_certificate(kit, credentials, NOW)
    assert (result.outcome, result.remedy) == ("failed", f"Run: chmod 600 {kit.key}")


@pytest.mark.parametrize("name", ["client.crt", "client.key", "rootCA.pem"])
def test_damaged_and_missing_files_are_one_line(authority: Authority, tmp_path: Path, name: str) -> None:
    kit, _ = signed_kit(authority, tmp_path)
    (kit.startup / name).write_text("not a certificate")
    with pytest.raises(UserError, match="damaged"):
        read_credentials(kit)
    (kit.startup / name).unlink()
    with pytest.raises(UserError, match=name):
        read_credentials(kit)


def test_the_clock_is_compared_with_certificate_and_server(authority: Authority, tmp_path: Path) -> None:
    _, credentials = signed_kit(authority, tmp_path)
    second = timedelta(seconds=1)
    early = check_clock(credentials, authority.begin - DAY, None)
    assert (early.outcome, early.remedy) == ("failed", "Set the clock (NTP).")
    assert "not compared" in check_clock(credentials, NOW, None).text
    assert check_clock(credentials, NOW, NOW - 100 * second).outcome == "ok"
    off = check_clock(credentials, NOW, NOW + 150 * second)
    assert off.outcome == "warning"
    assert "150 s from the server's" in off.text
    assert check_clock(credentials, NOW, NOW - timedelta(hours=1)).outcome == "failed"


def test_the_key_names_of_an_authority_and_of_what_it_signed_are_equal(provisioned: Path) -> None:
    found = read_credentials(open_kit(provisioned / "st_mary"))
    assert certificate.key_name(found.authority) == certificate.issuer_key_name(found.certificate)
    assert certificate.key_name(Authority().certificate) != certificate.key_name(found.authority)


# Policy


def test_the_allow_list_must_have_our_classes(kits: Path) -> None:
    kit = open_kit(kits / "st_mary")
    result = policy.check_allow_list(kit)
    assert result.outcome == "failed"
    assert result.remedy == f"Run: nc-medfl site init {kit.folder}"
    path = kit.local / "resources.json"
    for content, outcome in [
        ({"class_allow_list": ["nc_medfl."]}, "ok"),
        ({"class_allow_list": ["*"]}, "warning"),
        ({"class_allow_list": ["nc_medfl."], "class_list_enforcement_mode": "warn"}, "warning"),
        ({"class_allow_list": ["nc_medfl.federation.client.SiteExecutor"]}, "failed"),
        ({"class_allow_list": 3}, "failed"),
        ({}, "failed"),
    ]:
        path.write_text(json.dumps(content))
        assert policy.check_allow_list(kit).outcome == outcome, content


def test_the_policy_on_custom_code_is_shown_and_a_broken_one_fails(kits: Path) -> None:
    kit = open_kit(kits / "st_mary")
    assert policy.check_authorization(kit).text.endswith("is run for project_admin (any), lead (any)")
    path = kit.local / "authorization.json"
    for permissions, outcome in [
        ({"lead": {"byoc": "none"}}, "ok"),
        ({"lead": {"byoc": "perhaps"}}, "failed"),
        ([], "failed"),
    ]:
        path.write_text(json.dumps({"format_version": "1.0", "permissions": permissions}))
        assert policy.check_authorization(kit).outcome == outcome


# The whole, and the command


def test_a_site_without_a_kit_is_checked_for_what_it_has(tmp_path: Path, job: JobSettings) -> None:
    tiny_site(tmp_path, "st_mary", images=20)
    names = [result.name for result in preflight(None, tmp_path / "st_mary" / "site.yaml", job)]
    splits = [f"positives {split}" for split in ("train", "val", "test")]
    assert names == ["config", "store", *splits, "policy", "device", "disk", "memory", "packages"]


def check(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", *map(str, arguments)])
    if isinstance(done.exception, UserError):
        return done.exception.exit_code, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def test_the_command_ends_with_1_on_a_failure_and_with_0_otherwise(tmp_path: Path) -> None:
    store = tiny_site(tmp_path, "st_mary", images=20)
    arguments = ["--site-config", tmp_path / "st_mary" / "site.yaml", "--job", "jobs/fednca_cxr"]
    code, output = check(*arguments)
    assert code == 0
    lines = output.splitlines()
    assert all(line.split()[0] in {"ok", "warning"} for line in lines[:-1])
    assert lines[-1].startswith("ready, ")
    shard_path(store.folder, 0).unlink()
    code, output = check(*arguments, "--json")
    payload = json.loads(output)
    assert (code, payload["ready"]) == (1, False)
    assert {c["name"]: c["outcome"] for c in payload["checks"]}["store"] == "failed"
    assert {c["name"]: c["outcome"] for c in payload["checks"]}["positives"] == "skipped"


def test_a_kit_that_was_not_settled_fails_and_says_how_to(kits: Path) -> None:
    code, output = check("--kit", kits / "st_mary", "--json")
    found = {c["name"]: c for c in json.loads(output)["checks"]}
    assert code == 1
    assert "nc-medfl site init" in found["config"]["remedy"]
    assert found["certificate"]["outcome"] == "ok"
    assert found["store"]["outcome"] == found["device"]["outcome"] == "skipped"


def test_the_coordinators_kits_can_be_checked_too(kits: Path) -> None:
    _, output = check("--kit", kits / "server", "--json")
    found = {c["name"]: c["outcome"] for c in json.loads(output)["checks"]}
    assert found["certificate"] == "ok"
    assert found["class_allow_list"] == "failed"
    assert "server" not in found
    _, output = check("--kit", kits / "admin@example.org", "--json")
    assert {"certificate", "server", "clock"} <= {c["name"] for c in json.loads(output)["checks"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --kit"),
        (["--kit", "nowhere"], "not a startup kit"),
        (["--site-config", "s.yaml", "--job", "jobs/nope"], "not a job"),
    ],
)
def test_a_wrong_call_ends_with_2(monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.delenv("NC_MEDFL_SITE_CONFIG", raising=False)
    code, text = check(*arguments)
    assert code == 2
    assert message in text


def test_no_time_of_the_machine_is_needed_to_read_the_servers() -> None:
    # RFC 9110's own example of a date.
    from nc_medfl.federation.preflight.server import _date

    expected = datetime(1994, 11, 15, 8, 12, 31, tzinfo=timezone.utc)
    assert _date(b"HTTP/1.1 200 OK\r\ndate:Tue, 15 Nov 1994 08:12:31 GMT\r\n\r\n") == expected
    assert _date(b"HTTP/1.1 200 OK\r\nDate: yesterday\r\n\r\n") is None
    assert _date(b"\0\0\0\4") is None
