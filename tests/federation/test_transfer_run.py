"""A federation on FLARE's simulator whose models travel in half precision and are combined by their median."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch

from nc_medfl.config import load_job_settings, load_site_config
from nc_medfl.federation.site import site_files
from nc_medfl.federation.wire import from_wire, to_wire
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.training.model import build_network, load_model
from tests_support import REPOSITORY, tiny_site

OVERRIDES = ["rounds=1", "network.backbone=small", "training.lr=1e-3", "transfer=float16", "aggregation.robust=median"]


def test_a_half_precision_median_by_flare_is_that_of_the_sites_in_turn(tmp_path: Path) -> None:
    for seed, name in enumerate(("alpha", "beta", "gamma")):
        tiny_site(tmp_path / "sites", name, seed=seed)
    command = [sys.executable, "-m", "nc_medfl.cli.main", "run", "jobs/fednca_cxr", "--env", "sim", "--sites"]
    command += [str(tmp_path / "sites"), "--out", str(tmp_path / "run")]
    command += [part for text in OVERRIDES for part in ("--set", text)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    updates = pd.read_csv(tmp_path / "run" / "updates.csv")
    assert list(updates["outcome"]) == ["accepted"] * 3
    assert not list((tmp_path / "run").rglob("nc_medfl-updates-*"))

    settings = load_job_settings(REPOSITORY / "jobs" / "fednca_cxr" / "job.yaml", OVERRIDES).for_sites()
    start = build_network(settings).state_dict()
    half = sum(value.numel() * (2 if value.is_floating_point() else 8) for value in start.values())
    assert ((updates["bytes_down"] >= half) & (updates["bytes_down"] < half + 1000)).all()
    assert ((updates["bytes_up"] > half) & (updates["bytes_up"] < half + 60_000)).all()
    sent = from_wire(to_wire(start, "float16"), "float16")
    models = []
    for path in site_files(tmp_path / "sites").values():
        trained = SiteWorker(settings, load_site_config(path)).train(sent, 0).params
        models.append(from_wire(to_wire(trained, "float16"), "float16"))
    network, _, _ = load_model(tmp_path / "run" / "model_last.pt")
    for name, value in network.state_dict().items():
        assert value.dtype == start[name].dtype
        middle = (
            torch.stack([model[name].double() for model in models]).median(dim=0).values
        )  # of three, the middle one
        torch.testing.assert_close(value, middle.to(value.dtype), rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")
