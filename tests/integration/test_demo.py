"""The demo as README's first command runs it, at full size, with both methods. Minutes long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from nc_medfl.labels import load_vocabulary

pytestmark = pytest.mark.integration

#: Half way between the two macro AUCs in docs/results/demo.csv, so that neither demo need run twice for the comparison.
BETWEEN = 0.84


def run_demo(out: Path, method: str) -> pd.DataFrame:
    command = [sys.executable, "-m", "nc_medfl.cli.main", "demo", "--out", str(out), "--method", method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == str(out / "report.html")
    assert (out / "report.html").stat().st_size > 10_000
    rows = pd.read_csv(out / "metrics.csv")
    whole = rows[(rows["site"] == "pooled") & (rows["metric"] == "auc") & (rows["group"] == "all")]
    return whole.set_index("finding")


@pytest.fixture(scope="module")
def fednca(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return run_demo(tmp_path_factory.mktemp("demo") / "fednca", "fednca")


@pytest.fixture(scope="module")
def fedavg(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return run_demo(tmp_path_factory.mktemp("demo") / "fedavg", "fedavg")


def test_every_finding_can_be_tested_and_the_method_is_above_what_the_baseline_reaches(fednca: pd.DataFrame) -> None:
    findings = list(load_vocabulary("nih14").findings)
    assert (fednca.loc[findings, "n_positive"] >= 20).all()
    assert fednca.loc[findings, "value"].notna().all()
    assert fednca.loc["macro", "value"] == pytest.approx(fednca.loc[findings, "value"].mean(), abs=1e-5)
    assert BETWEEN < fednca.loc["macro", "value"] < 0.99


@pytest.mark.faults
def test_the_task_is_hard_enough_that_the_baseline_is_below_what_the_method_reaches(fedavg: pd.DataFrame) -> None:
    assert fedavg.loc["macro", "value"] < BETWEEN
