"""``training.precision: auto`` at a site: tried once a federation, kept, told to the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.federation import keys
from nc_medfl.federation import worker as workers
from nc_medfl.federation.checks import checked_precision
from nc_medfl.federation.local import LocalFederation
from nc_medfl.settings import parse
from nc_medfl.training.precision import Trial
from tests_support import tiny_site


@pytest.mark.parametrize("faster", ["float32", "mixed"])
def test_a_site_tries_once_and_keeps_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: str) -> None:
    store = tiny_site(tmp_path / "site", "a", images=24, prevalence=0.3, seed=0)
    settings = parse(
        JobSettings,
        {"rounds": 2, "network": {"backbone": "small"}, "training": {"precision": "auto", "augment": False}},
        where="test",
    )
    tried = []

    def trial(_network: object, shape: tuple[int, ...]) -> Trial:
        tried.append(shape)
        return Trial("mixed", {"float32": 1, "mixed": 0.1}) if faster == "mixed" else Trial("float32", {"float32": 1})

    monkeypatch.setattr(workers, "try_out", trial)
    config = SiteConfig(name="a", store=store.folder, device="cpu")
    for _start in range(2):  # a trainer that is started anew for every task finds what was kept
        federation = LocalFederation(settings, {"a": config}, tmp_path / "state")
        for _ in federation.rounds(score=False):
            pass
        told = {keys.FINGERPRINTS: federation.workers["a"].fingerprints}
        assert checked_precision(told) == faster
    assert tried == [(32, 1, *store.shape)]


@pytest.mark.parametrize("told", [{}, {keys.FINGERPRINTS: 3}, {keys.FINGERPRINTS: {"precision": "=cmd()"}}])
def test_a_word_that_is_no_precision_is_not_written_down(told: dict[str, object]) -> None:
    assert checked_precision(told) == ""
