"""A site that sends something else than its update to FLARE's server, a kind of lie in every round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from lies_support import ENV_MARK, LIAR, LIES

from nc_medfl.config import load_job_settings, load_site_config
from nc_medfl.federation.averaging import SiteUpdate, average
from nc_medfl.federation.site import site_files
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.networks import class_parameters
from nc_medfl.training.model import build_network, load_model
from tests_support import REPOSITORY, tiny_site

pytestmark = [pytest.mark.integration, pytest.mark.faults]

HONEST = ("alpha", "beta", "gamma")
#: The liar is honest in the first round and in the last: it is refused for what it sends, not for who it is.
ROUNDS = len(LIES) + 2
OVERRIDES = [
    f"rounds={ROUNDS}",
    "network.backbone=small",
    "training.lr=1e-3",
    "evaluation.resamples=0",
    "federation.min_sites=3",
    "federation.grace=120",
    "aggregation.weighting=samples",
    "aggregation.server_optimizer=none",  # the replay takes the average as it is
    "aggregation.average_last=1",
]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for seed, name in enumerate((*HONEST, LIAR)):
        tiny_site(folder, name, seed=seed, images=60)
    return folder


@pytest.fixture(scope="module")
def finished(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    command = [sys.executable, "-m", "nc_medfl.cli.main", "run", "jobs/fednca_cxr", "--env", "sim"]
    command += ["--sites", str(sites), "--out", str(out)]
    command += [part for text in OVERRIDES for part in ("--set", text)]
    tests = REPOSITORY / "tests"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (tests / "liar", tests, REPOSITORY))),
        ENV_MARK: str(out.parent / "it-ran"),
    }
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, cwd=REPOSITORY, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_every_lie_is_refused_with_its_reason_and_costs_the_liar_alone(finished: Path) -> None:
    updates = pd.read_csv(finished / "updates.csv", keep_default_na=False).set_index(["round", "site"])
    for number, (word, (_, reason)) in enumerate(LIES.items(), start=2):
        row = updates.loc[(number, LIAR)]
        assert row["outcome"] == "refused", word
        assert reason in row["reason"], word
    assert {updates.loc[(number, LIAR), "outcome"] for number in (1, ROUNDS)} == {"accepted"}
    assert set(updates.loc[(slice(None), list(HONEST)), "outcome"]) == {"accepted"}
    assert json.loads((finished / "run.json").read_text())["outcome"] == "finished"
    assert "vocabulary fingerprint differs" in (finished / "report.html").read_text()


def test_the_pickle_was_not_run(finished: Path) -> None:
    assert not (finished.parent / "it-ran").exists()


def test_the_model_is_that_of_the_accepted_updates_alone(finished: Path, sites: Path) -> None:
    settings = load_job_settings(REPOSITORY / "jobs" / "fednca_cxr" / "job.yaml", OVERRIDES).for_sites()
    network = build_network(settings)
    workers = {name: SiteWorker(settings, load_site_config(path)) for name, path in site_files(sites).items()}
    model = {name: value.clone() for name, value in network.state_dict().items()}
    for number in range(ROUNDS):
        updates = []
        for name in (*HONEST, LIAR) if number in (0, ROUNDS - 1) else HONEST:
            local = workers[name].train(model, number)
            updates.append(SiteUpdate(name, local.params, local.n_samples, local.before.statistics))
        model = average(model, updates, weighting="samples", class_axes=class_parameters(network))
    found = load_model(finished / "model_last.pt")[0].state_dict()
    for name, value in found.items():
        torch.testing.assert_close(value, model[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
