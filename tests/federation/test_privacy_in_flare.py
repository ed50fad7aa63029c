"""A federation on FLARE's simulator whose sites each protect their patients in a way of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from nc_medfl.cli.main import app
from nc_medfl.config import PrivacySettings, load_site_config, save_site_config
from nc_medfl.federation.accounting import Release, epsilon_of
from nc_medfl.federation.audit import read_audit
from nc_medfl.settings import parse
from tests_support import REPOSITORY, tiny_site

ROUNDS = 2
PRIVACY: dict[str, dict[str, Any]] = {
    "alpha": {"dp_sgd": {"multiplier": 1.2}, "statistics_noise": {"multiplier": 6.0}},
    "beta": {"update_clip": 0.3, "min_positives": 8, "min_test_positives": 3},
    "gamma": {"min_patients": 4321},
}
SETTINGS = ["network.backbone=small", "network.norm=group", "loss.lambda_rejection=0", "training.lr=1e-3"]
SETTINGS += ["loss.absent_from_global=0"]
SETTINGS += [f"rounds={ROUNDS}", "federation.min_sites=2", "federation.grace=5", "evaluation.resamples=0"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for seed, (name, privacy) in enumerate(PRIVACY.items()):
        tiny_site(folder, name, seed=seed, images=80)
        path = folder / name / "site.yaml"
        settings = parse(PrivacySettings, privacy, where=name)
        save_site_config(load_site_config(path).model_copy(update={"privacy": settings}), path)
    return folder


@pytest.fixture(scope="module")
def finished(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    overrides = [part for text in SETTINGS for part in ("--set", text)]
    command = [sys.executable, "-m", "nc_medfl.cli.main", "run", "jobs/fednca_cxr", "--env", "sim"]
    command += ["--sites", str(sites), "--out", str(out), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_a_site_that_refuses_costs_its_updates_and_the_server_learns_the_kind_of_reason(finished: Path) -> None:
    updates = pd.read_csv(finished / "updates.csv", keep_default_na=False)
    assert set(updates.loc[updates["site"] == "gamma", "reason"]) == {"refused by the site (too small a cohort)"}
    assert set(updates.loc[updates["site"] != "gamma", "outcome"]) == {"accepted"}
    for path in finished.glob("*.*"):
        # As a number of its own: the digits may well stand in a longer one.
        assert not re.search(r"(?<![\d.])4321(?!\d)", path.read_text(errors="replace")) or path.suffix == ".pt", path


def test_epsilon_stands_in_the_run_and_the_report(finished: Path, sites: Path) -> None:
    table = pd.read_csv(finished / "privacy.csv").set_index(["round", "site", "quantity"])["value"]
    assert set(table.index.get_level_values("site")) == {"alpha", "beta"}
    # 24 training patients, 32 a batch: one step a round over everybody; statistics once a round.
    for rounds in range(1, ROUNDS + 1):
        spent = [Release("dp_sgd", 1.2, steps=rounds), Release("class_statistics", 6.0, steps=rounds)]
        assert table[rounds, "alpha", "epsilon"] == pytest.approx(epsilon_of(spent, 1e-5), rel=1e-4)
    assert table[ROUNDS + 1, "alpha", "epsilon_all_jobs"] > table[ROUNDS, "alpha", "epsilon_all_jobs"]
    assert table[1, "beta", "update_clip"] == pytest.approx(0.3)
    page = (finished / "report.html").read_text()
    assert "Privacy by site" in page
    assert f"{table[ROUNDS + 1, 'alpha', 'epsilon']:.3g}" in page


def test_a_site_with_noise_tells_no_loss_and_one_without_does(finished: Path) -> None:
    rounds = pd.read_csv(finished / "rounds.csv")
    losses = rounds[(rounds["split"] == "train") & ~rounds["metric"].str.startswith("nc")]
    assert "loss" in set(losses["metric"])
    assert set(losses["site"]) == {"beta"}


def test_rare_findings_of_a_strict_site_are_withheld_in_the_results(finished: Path) -> None:
    metrics = pd.read_csv(finished / "metrics.csv", keep_default_na=False)
    own = metrics[(metrics["site"] == "beta") & (metrics["metric"] == "auc")]
    hidden = own["reason"].str.contains("withheld by the site")
    assert hidden.any()
    assert not hidden.all()
    assert set(own.loc[hidden, "value"]) == {""}


def test_each_site_has_a_trail_that_the_command_prints(finished: Path, sites: Path) -> None:
    for name in PRIVACY:
        entries, broken = read_audit(sites / name / "store")
        assert broken is None
        events = [entry["event"] for entry in entries]
        assert events[0] == "job"
        expected = {"refused"} if name == "gamma" else {"answered"}
        assert set(events[1:]) == expected
    done = CliRunner().invoke(app, ["audit", str(sites / "alpha" / "store"), "--json"])
    assert done.exit_code == 0
    entries = json.loads(done.stdout)["entries"]
    assert [e["task"] for e in entries if e["event"] == "answered"] == ["train", "train", "validate", "evaluate"]
    plain = CliRunner().invoke(app, ["audit", str(sites / "alpha" / "store")])
    assert "evaluate" in plain.stdout
