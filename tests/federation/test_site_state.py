"""What a site keeps between rounds, and that it makes a trainer's relaunch harmless."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError
from nc_medfl.federation.site_state import SiteState
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.settings import parse
from tests_support import tiny_site

RUN = "0123456789abcdef" * 2
# A rate that falls over the rounds would part two rounds from two epochs of one.
CONSTANT = {"lr_schedule": "constant", "warmup_rounds": 0}
CONTENT = {"network": {"backbone": "small"}, "training": {"keep_optimizer": True, "lr": 1e-3, **CONSTANT}}
SETTINGS = parse(JobSettings, CONTENT, where="test").for_sites()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_site(tmp_path_factory.mktemp("site"), "a", images=40)


def a_worker(store: Store, state: SiteState | None) -> SiteWorker:
    return SiteWorker(SETTINGS, SiteConfig(name="a", store=store.folder, device="cpu"), state)


def test_two_rounds_in_two_processes_are_two_epochs_of_one(store: Store, tmp_path: Path) -> None:
    # With the moments kept and one site, a federation of two rounds is plain training for two epochs: round r of one
    # local epoch draws as epoch r does, and nothing of the optimiser is lost in between.
    two = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update={"local_epochs": 2})})
    plain = SiteWorker(two, SiteConfig(name="a", store=store.folder, device="cpu"))
    start = {name: value.clone() for name, value in plain.network.state_dict().items()}
    expected = plain.train(start, 0).params
    first = a_worker(store, SiteState(tmp_path, RUN)).train(start, 0).params
    second = a_worker(store, SiteState(tmp_path, RUN)).train(first, 1).params
    forgetful = a_worker(store, None).train(first, 1).params
    # The network has no dropout, so its draws hang on the epoch alone.
    for name, value in expected.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert any(not torch.equal(forgetful[name], expected[name]) for name in expected)


def test_a_round_done_again_starts_from_the_same_moments(store: Store, tmp_path: Path) -> None:
    worker = a_worker(store, SiteState(tmp_path, RUN))
    start = {name: value.clone() for name, value in worker.network.state_dict().items()}
    first = worker.train(start, 0).params
    once, again = worker.train(first, 1).params, worker.train(first, 1).params
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_the_three_newest_are_kept_and_the_newest_before_a_round_is_given(tmp_path: Path) -> None:
    state = SiteState(tmp_path, RUN)
    assert state.load_optimizer(0) is None
    for number in range(5):
        state.save_optimizer(number, {"of": torch.tensor(number)})
    assert sorted(path.name for path in state.folder.iterdir()) == [f"optimizer-{n}.pt" for n in (2, 3, 4)]
    assert state.load_optimizer(3) == {"of": torch.tensor(2)}
    assert state.load_optimizer(9) == {"of": torch.tensor(4)}  # the site missed rounds 5 to 8
    state.forget()
    assert list(tmp_path.iterdir()) == []


def test_another_federation_finds_nothing_and_what_is_a_month_old_goes(tmp_path: Path) -> None:
    old = SiteState(tmp_path, RUN)
    old.save_optimizer(0, {})
    other = SiteState(tmp_path, "f" * 32)
    assert other.load_optimizer(5) is None
    assert old.folder.is_dir()
    month_ago = time.time() - 31 * 86400
    os.utime(old.folder, (month_ago, month_ago))
    SiteState(tmp_path, "f" * 32)
    assert not old.folder.exists()


@pytest.mark.parametrize("run_id", ["", "../../etc", "g" * 32])
def test_a_server_cannot_name_a_folder_outside(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UserError, match="32 hexadecimal"):
        SiteState(tmp_path / "state", run_id)


def test_a_damaged_state_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    state = SiteState(tmp_path, RUN)
    (state.folder / "optimizer-0.pt").write_bytes(b"cut of")
    with pytest.raises(UserError, match="Remove it"):
        state.load_optimizer(1)
