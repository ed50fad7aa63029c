"""The folder of a POC, without FLARE: its lock, its owner, and the processes that are its."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nc_medfl.data.store import write_json
from nc_medfl.errors import UserError
from nc_medfl.federation.environments import poc_folder
from nc_medfl.federation.processes import find, identity


def test_two_runs_do_not_use_one_poc(tmp_path: Path) -> None:
    with (
        poc_folder.used(tmp_path / "poc"),
        pytest.raises(UserError, match="another run uses this POC"),
        poc_folder.used(tmp_path / "poc"),
    ):
        pass
    with poc_folder.used(tmp_path / "poc"):
        pass


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty, and no POC"), poc_folder.used(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_poc_is_an_orphan_when_its_owner_is_gone_or_its_folder(tmp_path: Path) -> None:
    with poc_folder.used(tmp_path / "poc"):
        folder = tmp_path / "poc"
    assert not poc_folder.is_orphan(folder)  # kept: nobody's
    poc_folder.own(folder)
    assert not poc_folder.is_orphan(folder)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_json(folder / "owner.json", identity(psutil.Process(child.pid)))
    assert not poc_folder.is_orphan(folder)
    child.communicate()
    assert poc_folder.is_orphan(folder)
    poc_folder.disown(folder)
    assert not poc_folder.is_orphan(folder)
    assert poc_folder.is_orphan(tmp_path / "none")


def test_a_process_of_the_same_number_is_not_taken_for_another() -> None:
    own = identity(psutil.Process())
    assert find(own) == psutil.Process()
    assert find({**own, "created": own["created"] - 100}) is None
    assert find({}) is None


def test_the_end_finds_what_the_holder_lost_and_nothing_beside_it(tmp_path: Path) -> None:
    folder, beside = tmp_path / "poc", tmp_path / "poc" / "flare-of-another"
    wait = [sys.executable, "-c", "import time; time.sleep(60)"]
    lost = subprocess.Popen([*wait, str(folder / "flare" / "poc" / "prod_00" / "server")])
    other = subprocess.Popen([*wait, str(beside)])
    try:
        with poc_folder.used(folder):
            assert poc_folder.end(folder)
            assert not psutil.pid_exists(lost.pid)
            assert other.poll() is None
            assert not poc_folder.end(folder)
    finally:
        other.kill()
        other.wait()
