"""FLARE's simulator beside the same rounds in one process: the same weights, for every way of training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from nc_medfl.config import load_job_settings, load_site_config
from nc_medfl.federation.local import LocalFederation
from nc_medfl.federation.site import site_files
from nc_medfl.training.model import load_model
from tests_support import REPOSITORY, tiny_site

OVERRIDES = ["rounds=2", "network.backbone=small", "training.lr=1e-3", "evaluation.resamples=0"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for seed, name in enumerate(("alpha", "beta")):
        tiny_site(folder, name, seed=seed, images=80 + 40 * seed)
    return folder


@pytest.mark.parametrize(
    ("job", "more"),
    [
        (
            "fednca_cxr",
            [
                "aggregation.weighting=class_aware",
                "aggregation.server_optimizer=momentum",
                "aggregation.average_last=2",
            ],
        ),
        pytest.param("fedprox_cxr", ["fedprox.mu=0.5", "aggregation.weighting=samples"], marks=pytest.mark.faults),
        pytest.param(
            "scaffold_cxr",
            ["training.optimizer=sgd", "training.lr=0.05", "training.local_epochs=2"],
            marks=pytest.mark.faults,
        ),
        *(
            pytest.param("fedavg_cxr", [f"method={method}"], marks=pytest.mark.faults)
            for method in ("fedbn", "moon", "fedetf", "fednh")
        ),
    ],
    ids=["fednca", "fedprox", "scaffold", "fedbn", "moon", "fedetf", "fednh"],
)
def test_flare_and_a_loop_in_one_process_give_the_same_weights(
    sites: Path, tmp_path: Path, job: str, more: list[str]
) -> None:
    overrides = [*OVERRIDES, *more]
    if job == "scaffold_cxr":
        # One site trains in a process of its own, made anew for every task: its controls have to be on disk.
        shutil.copytree(sites, tmp_path / "sites")
        sites = tmp_path / "sites"
        with (sites / "beta" / "site.yaml").open("a") as stream:
            stream.write("trainer: process\n")
    command = [sys.executable, f"jobs/{job}/job.py", "--sites", str(sites), "--out", str(tmp_path / "run")]
    command += [part for text in overrides for part in ("--set", text)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

    settings = load_job_settings(REPOSITORY / "jobs" / job / "job.yaml", overrides)
    configs = {name: load_site_config(path) for name, path in site_files(sites).items()}
    local = LocalFederation(settings, configs, tmp_path / "state").run()
    network, _, content = load_model(tmp_path / "run" / "model_last.pt")
    assert content["round"] == 2
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, local.last[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["best_round"] == local.best.rounds
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    for row in local.rows:
        if (row["finding"], row["metric"]) == ("macro", "auc"):
            found = metrics[(metrics["site"] == row["site"]) & (metrics["finding"] == "macro")]
            assert found.set_index("metric").loc["auc", "value"] == pytest.approx(row["value"], abs=1e-5)
    losses = set(pd.read_csv(tmp_path / "run" / "rounds.csv").query("split == 'train'")["metric"])
    assert ("proximal" in losses) == (job == "fedprox_cxr")
