"""What the server keeps after a round, and when it goes on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nc_medfl.config import JobSettings
from nc_medfl.errors import UserError
from nc_medfl.federation import keys
from nc_medfl.federation.choice import Chosen, Score
from nc_medfl.federation.roundlog import RoundLog
from nc_medfl.federation.state import RoundStore, state_folder
from nc_medfl.settings import parse
from nc_medfl.training.model import save_model


def settings(**federation: Any) -> JobSettings:
    content = {"method": "fedavg", "network": {"backbone": "small"}, "federation": federation}
    return parse(JobSettings, content, where="test")


def results(folder: Path, rounds: int) -> RoundLog:
    """The results folder of a federation after some rounds, whose model holds their number."""
    log = RoundLog(folder)
    for number in range(1, rounds + 1):
        log.add(keys.UPDATES_CSV, number, [{"site": "a", "outcome": "accepted"}])
    for name in (keys.LAST_MODEL, keys.BEST_MODEL):
        save_model(folder / name, {"w": torch.tensor([float(rounds)])}, settings(), rounds=rounds, prints={})
    return log


def saved(root: Path, tmp_path: Path, job_id: str, rounds: int, job: JobSettings | None = None) -> RoundStore:
    store = RoundStore(root, job or settings(), job_id)
    log = results(tmp_path / f"results-{job_id}-{rounds}", rounds)
    store.save(log.folder, rounds, Chosen(rounds, Score({"a": 0.5})), "f" * 32)
    return store


def test_a_job_that_is_started_again_finds_its_own_last_round(tmp_path: Path) -> None:
    root = tmp_path / "state"
    saved(root, tmp_path, "one", 1)
    saved(root, tmp_path, "one", 2)
    saved(root, tmp_path, "another", 5)
    found = RoundStore(root, settings(), "one").find()
    assert found is not None
    assert (found.rounds, found.run_id) == (2, "f" * 32)
    assert found.best == Chosen(2, Score({"a": 0.5}))
    assert torch.equal(found.params()["w"], torch.tensor([2.0]))
    assert [path.name for path in (root / "fednca_cxr" / "one").iterdir()] == ["round-2"]


def test_a_new_job_starts_afresh_unless_it_is_told_to_resume(tmp_path: Path) -> None:
    root = tmp_path / "state"
    saved(root, tmp_path, "older", 3)
    saved(root, tmp_path, "newer", 2)
    assert RoundStore(root, settings(), "third").find() is None
    store = RoundStore(root, settings(resume=True, min_sites=2), "third")  # waiting may change, the rest may not
    found = store.find()
    assert found is not None
    assert found.rounds == 2
    store.forget()
    assert [path.name for path in (root / "fednca_cxr").iterdir()] == ["older"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "state"
    saved(root, tmp_path, "one", 1)
    other = settings(resume=True).model_copy(update={"seed": 7})
    with pytest.raises(UserError, match="other settings"):
        RoundStore(root, other, "two").find()


def test_a_round_that_was_being_saved_is_not_there(tmp_path: Path) -> None:
    root = tmp_path / "state"
    store = saved(root, tmp_path, "one", 1)
    log = results(tmp_path / "unfinished", 2)
    (log.folder / keys.BEST_MODEL).unlink()
    with pytest.raises(OSError, match="No such file"):
        store.save(log.folder, 2, Chosen(1, Score({"a": 0.5})), "f" * 32)
    found = store.find()
    assert found is not None
    assert found.rounds == 1
    # The next save clears what the broken one left.
    saved(root, tmp_path, "one", 2)
    assert [path.name for path in store.folder.iterdir()] == ["round-2"]


def test_rows_of_an_unfinished_round_are_dropped_and_progress_goes_on(tmp_path: Path) -> None:
    store = saved(tmp_path / "state", tmp_path, "one", 1)
    found = store.find()
    assert found is not None
    folder = tmp_path / "results-one-1"
    log = RoundLog(folder, found.folder)
    log.progress(event="started")
    log.add(keys.UPDATES_CSV, 2, [{"site": "a", "outcome": "accepted"}])
    with (folder / keys.PROGRESS).open("a") as stream:
        stream.write('{"event": "rou')  # killed in the middle of a line
    again = RoundLog(folder, found.folder)
    again.progress(event="started")
    assert (folder / keys.PROGRESS).read_text() == '{"event": "started"}\n' * 2
    assert (folder / keys.UPDATES_CSV).read_text().splitlines()[1:] == ["1,a,accepted,,,,,"]


def test_tables_with_fewer_columns_of_an_earlier_package_go_on_with_those(tmp_path: Path) -> None:
    earlier = tmp_path / "saved"
    RoundLog(earlier)
    (earlier / keys.UPDATES_CSV).write_text("round,site,outcome\n1,a,accepted\n")
    RoundLog(tmp_path / "results", earlier).add(keys.UPDATES_CSV, 2, [{"site": "a", "outcome": "late", "bytes_up": 7}])
    assert (tmp_path / "results" / keys.UPDATES_CSV).read_text().splitlines()[1:] == ["1,a,accepted", "2,a,late"]


def test_the_folder_is_in_the_workspace_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.ENV_STATE_DIR, raising=False)
    assert state_folder(tmp_path, "server") == tmp_path / "nc_medfl_state"
    monkeypatch.setenv(keys.ENV_STATE_DIR, str(tmp_path / "named"))
    assert state_folder(tmp_path, "alpha") == tmp_path / "named" / "alpha"
