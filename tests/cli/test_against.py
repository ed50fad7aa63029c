"""How a comparison names what it compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from nc_medfl.cli.against import label_of


@pytest.mark.parametrize("given", ["model_best.pt", "../fednca/model_best.pt", "./model_best.pt"])
def test_a_run_is_named_from_within_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    run = tmp_path / "fednca"
    run.mkdir()
    (run / "model_best.pt").touch()
    monkeypatch.chdir(run)
    assert label_of(Path(given)) == "fednca"
    assert label_of(Path("scores.csv")) == "scores"
