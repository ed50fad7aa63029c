"""What TensorBoard and MLflow are told of a run, read back with their own readers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from nc_medfl.config import JobSettings
from nc_medfl.errors import UserError
from nc_medfl.federation.tracking import check_tracking, values_of
from nc_medfl.settings import parse
from tests_support import REPOSITORY, tiny_site

Told = dict[tuple[str, str, int], float]


def test_undefined_values_are_left_out_and_the_federations_own_go_under_its_name() -> None:
    rows = [
        {"site": "a", "split": "train", "finding": "all", "metric": "loss", "value": 0.7},
        {"site": "a", "split": "val", "finding": "macro", "metric": "auc", "value": None},
        {"site": "a", "split": "val", "finding": "Hernia", "metric": "auc", "value": 0.25},
        {"site": "all", "split": "val", "finding": "macro", "metric": "auc", "value": 0.5},
        {"site": "b", "split": "val", "finding": "macro", "metric": "auc", "value": float("nan")},
    ]
    assert values_of("rounds.csv", rows) == [
        ("a", "train/loss", 0.7),
        ("a", "val/auc_Hernia", 0.25),
        ("federation", "val/auc_macro", 0.5),
    ]
    updates = [{"site": "a", "outcome": "accepted"}, {"site": "b", "outcome": "late"}]
    assert values_of("updates.csv", updates) == [
        ("federation", "updates/accepted", 1.0),
        ("federation", "updates/sites", 2.0),
    ]


def test_a_tracker_that_is_not_installed_is_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse(JobSettings, {"tracking": "mlflow"}, where="test")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"mlflow is not installed.*nc_medfl\[tracking\]"):
        check_tracking(settings)
    check_tracking(parse(JobSettings, {}, where="test"))


def from_tensorboard(folder: Path) -> Told:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = {}
    for part in sorted((folder / "tensorboard").iterdir()):
        events = EventAccumulator(str(part)).Reload()
        for tag in events.Tags()["scalars"]:
            told |= {(part.name, tag, event.step): event.value for event in events.Scalars(tag)}
    return told


def from_mlflow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking.client import MlflowClient

    client = MlflowClient(tracking_uri=(folder / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("fednca_cxr")
    told = {}
    for run in client.search_runs([experiment.experiment_id]):
        whose = run.data.tags["mlflow.runName"].partition("-")[0]
        for tag in run.data.metrics:
            told |= {(whose, tag, m.step): m.value for m in client.get_metric_history(run.info.run_id, tag)}
    return told


@pytest.mark.parametrize("tracking", ["tensorboard", "mlflow"])
def test_the_tracker_is_told_what_the_tables_hold(
    tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("alpha", "beta")):
        tiny_site(tmp_path / "sites", name, seed=seed, images=60)
    out = tmp_path / "run"
    overrides = [f"tracking={tracking}", "rounds=2", "network.backbone=small", "evaluation.resamples=0"]
    command = [sys.executable, "jobs/fednca_cxr/job.py", "--sites", str(tmp_path / "sites"), "--out", str(out)]
    command += [part for text in overrides for part in ("--set", text)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = from_tensorboard(out) if tracking == "tensorboard" else from_mlflow(out, monkeypatch)
    rounds = pd.read_csv(out / "rounds.csv")
    collapse = pd.read_csv(out / "collapse.csv")
    for number in (0, 1, 2):
        of_round = rounds[rounds["round"] == number].set_index(["site", "split", "finding", "metric"])["value"]
        whole = of_round.loc[("all", "val", "macro", "auc")]
        assert told["federation", "val/auc_macro", number] == pytest.approx(whole, rel=1e-4)
        nc1 = collapse[(collapse["round"] == number) & (collapse["metric"] == "nc1")]["value"].iloc[0]
        assert told["federation", "collapse/nc1", number] == pytest.approx(nc1, rel=1e-4)
        for site in ("alpha", "beta"):
            one = of_round.loc[(site, "val", "macro", "auc")]
            assert told[site, "val/auc_macro", number] == pytest.approx(one, rel=1e-4)
            if number:
                loss = of_round.loc[(site, "train", "all", "loss")]
                assert told[site, "train/loss", number] == pytest.approx(loss, rel=1e-4)
                assert told["federation", "updates/accepted", number] == 2
