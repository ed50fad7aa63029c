"""The best model that a site keeps for itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nc_medfl.config import JobSettings, load_site_config
from nc_medfl.federation import worker as worker_module
from nc_medfl.federation.tasks import make_worker
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network, load_model
from tests_support import tiny_site

SETTINGS = parse(JobSettings, {"network": {"backbone": "small"}, "training": {"lr": 1e-3}}, where="test").for_sites()


def test_the_best_local_model_outlives_the_trainer_and_never_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiny_site(tmp_path, "alpha", images=60)
    path = tmp_path / "alpha" / "site.yaml"
    path.write_text(path.read_text() + "keep_best_model: true\n")
    # Scores of the second round are the best; each is of a model after local training, by a worker started anew.
    scores = iter([0.6, 0.8, 0.7, None])
    monkeypatch.setattr(worker_module, "_macro", lambda _rows: next(scores))
    trained, sent = [], dict(build_network(SETTINGS).state_dict())
    for number in range(4):
        worker = make_worker(SETTINGS, load_site_config(path), tmp_path / "state", "../../" + "0" * 26)
        update = worker.train(sent, number)
        trained.append(update.params)
        sent = update.params
    (kept,) = (store.folder / "site_private" / "best_models").glob("*.pt")
    network, _, content = load_model(kept)
    assert content["round"] == 2
    assert all(torch.equal(value, trained[1][name]) for name, value in network.state_dict().items())
    assert json.loads(kept.with_suffix(".json").read_text()) == {"round": 2, "val_macro_auc": 0.8}
    assert {p.stat().st_mode & 0o777 for p in kept.parent.iterdir()} == {0o600}


def test_the_score_is_the_macro_auc_on_validation() -> None:
    rows = [
        {"finding": "Edema", "metric": "auc", "value": 0.2},
        {"finding": "macro", "metric": "auc", "value": 0.5},
        {"finding": "micro", "metric": "auc", "value": 0.9},
    ]
    assert worker_module._macro(rows) == 0.5
    assert worker_module._macro([{**rows[1], "value": None}]) is None


def test_nothing_is_kept_unless_the_site_wants_it(tmp_path: Path) -> None:
    store = tiny_site(tmp_path, "alpha", images=60)
    worker = make_worker(SETTINGS, load_site_config(tmp_path / "alpha" / "site.yaml"), tmp_path / "state", "0" * 32)
    worker.train(dict(build_network(SETTINGS).state_dict()), 0)
    assert not (store.folder / "site_private" / "best_models").exists()
