"""Federations on FLARE's simulator, by the public command, and what they leave behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from nc_medfl.config import JobSettings, load_job_settings, load_site_config
from nc_medfl.data.store import open_store, shard_path
from nc_medfl.data.usage import run_folders, runs_that_used
from nc_medfl.evaluation.result_tables import write_rows
from nc_medfl.federation.averaging import SiteUpdate, average
from nc_medfl.federation.processes import family, stop
from nc_medfl.federation.site import site_files
from nc_medfl.federation.site_tables import tables_of
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.labels import load_vocabulary
from nc_medfl.networks import class_parameters, simplex_etf
from nc_medfl.training.model import build_network, load_model
from tests_support import REPOSITORY, tiny_site

ROUNDS = 2
OVERRIDES = [
    f"rounds={ROUNDS}",
    "network.backbone=small",
    "training.lr=1e-3",
    "aggregation.weighting=class_aware",
    # The replay takes the average as it is.
    "aggregation.server_optimizer=none",
    "aggregation.average_last=1",
]
MISSING = "Hernia"


def nc_medfl(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, and check how it ends."""
    command = [sys.executable, "-m", "nc_medfl.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=REPOSITORY, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    return done


def run_job(job: str, sites: Path, out: Path, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    overrides = [part for text in OVERRIDES for part in ("--set", text)]
    return nc_medfl("run", f"jobs/{job}", "--env", "sim", "--sites", sites, "--out", out, *overrides, *more, code=code)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites of three")  # a blank in the path, as users have
    for seed, name in enumerate(("alpha", "beta", "gamma")):
        tiny_site(folder, name, seed=seed, images=120, missing=[MISSING] if name == "alpha" else [])
    return folder


@pytest.fixture(scope="module")
def finished(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs of three") / "run"
    done = run_job("fednca_cxr", sites, out)
    lines = done.stdout.split("\n")
    assert lines[-2] == str(out / "report.html"), done.stdout
    return out


def replay(sites: Path, settings: JobSettings) -> list[dict[str, torch.Tensor]]:
    """The global models of a federation, computed without FLARE: each site in turn, then the average."""
    network = build_network(settings)
    models = [{name: value.clone() for name, value in network.state_dict().items()}]
    workers = {name: SiteWorker(settings, load_site_config(path)) for name, path in site_files(sites).items()}
    for number in range(settings.rounds):
        updates = []
        for name, worker in workers.items():
            local = worker.train(models[-1], number)
            updates.append(SiteUpdate(name, local.params, local.n_samples, local.before.statistics))
        weighting, axes = settings.aggregation.weighting, class_parameters(network)
        models.append(average(models[-1], updates, weighting=weighting, class_axes=axes))
    return models


def test_the_run_leaves_its_artefacts(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["outcome"] == "finished"
    assert record["sites"] == ["alpha", "beta", "gamma"]
    assert 1 <= record["best_round"] <= ROUNDS
    assert set(record["fingerprints"]) >= {"vocabulary", "frame", "model"}
    for name in ("report.html", "metrics.json", "collapse.csv", "updates.csv", "label_statistics.csv"):
        assert (finished / name).stat().st_size > 0, name
    updates = pd.read_csv(finished / "updates.csv")
    assert len(updates) == 3 * ROUNDS
    assert set(updates["outcome"]) == {"accepted"}
    collapse = pd.read_csv(finished / "collapse.csv")
    assert sorted(collapse["round"].unique()) == list(range(ROUNDS + 1))
    coverage = collapse[(collapse["finding"] == MISSING) & (collapse["metric"] == "n_sites")]
    assert set(coverage["value"]) == {2.0}


def test_histograms_bound_what_all_patients_together_give(finished: Path) -> None:
    rows = pd.read_csv(finished / "metrics.csv")
    pooled = rows[(rows["site"] == "pooled") & (rows["group"] == "all")].set_index(["metric", "finding"])["value"]
    told = pd.read_csv(finished / "federation.csv")
    told = told[told["metric"].isin(["auc", "brier"]) & (told["finding"] != "macro") & told["value"].notna()]
    assert len(told) > 0
    for row in told.to_dict("records"):
        assert row["low"] - 1e-5 <= pooled[(row["metric"], row["finding"])] <= row["high"] + 1e-5


def test_the_numbers_of_the_sites_are_those_of_the_stores_at_hand(finished: Path) -> None:
    (sent,) = (finished / "flare").rglob("site_tables.json")
    tables = tables_of(sent.parent)
    assert set(tables) >= {"thresholds.csv", "calibration.csv", "reliability.csv", "score_histograms.csv"}
    for name, table in tables.items():
        here = pd.read_csv(finished / name)
        if name == "thresholds.csv":
            here = here[here["scope"] == "site"].reset_index(drop=True)
        if name == "reliability.csv":
            here = here[here["n"] >= 5].reset_index(drop=True)
        assert len(here) > 0 or name == "reliability.csv", name  # tenths of 24 images are too few
        write_rows(table, sent.parent / name)
        pd.testing.assert_frame_equal(pd.read_csv(sent.parent / name), here, check_dtype=False)


def test_collapse_is_told_by_site_and_finding(finished: Path) -> None:
    rounds = pd.read_csv(finished / "rounds.csv")
    own = rounds[rounds["metric"] == "nc3"]
    assert set(own["site"]) == {"alpha", "beta", "gamma"}
    assert sorted(own["round"].unique()) == list(range(ROUNDS + 1))
    by_finding = own[own["finding"] != "all"].groupby(["site", "round"])["value"].mean()
    overall = own[own["finding"] == "all"].set_index(["site", "round"])["value"]
    told = overall.dropna()
    np.testing.assert_allclose(by_finding[told.index], told, rtol=1e-4, atol=1e-5)


def test_metrics_are_per_site_mean_and_pooled_and_agree_with_scikit_learn(finished: Path, sites: Path) -> None:
    from sklearn.metrics import roc_auc_score

    rows = pd.read_csv(finished / "metrics.csv")
    assert set(rows["site"]) == {"alpha", "beta", "gamma", "all", "pooled"}
    aucs = rows[rows["metric"] == "auc"].set_index(["site", "finding"])
    lost = aucs.loc[("alpha", MISSING)]
    assert np.isnan(lost["value"])
    assert "positive" in lost["reason"]
    network, settings, _ = load_model(finished / "model_best.pt")
    worker = SiteWorker(settings, load_site_config(site_files(sites)["beta"]))
    worker.load(network.state_dict())
    found = worker.predictions("test")
    for index, finding in enumerate(load_vocabulary("nih14").findings):
        expected = roc_auc_score(found.labels[:, index], found.scores[:, index])
        assert aucs.loc[("beta", finding), "value"] == pytest.approx(expected, abs=1e-5)
    beta = aucs.loc["beta"].drop(["macro", "micro"])
    assert aucs.loc[("beta", "macro"), "value"] == pytest.approx(beta["value"].mean(), abs=1e-5)


def test_flare_gives_the_same_models_as_the_sites_in_turn(finished: Path, sites: Path) -> None:
    settings = load_job_settings(REPOSITORY / "jobs" / "fednca_cxr" / "job.yaml", OVERRIDES).for_sites()
    expected = replay(sites, settings)
    network, _, content = load_model(finished / "model_last.pt")
    assert content["round"] == ROUNDS
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected[-1][name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_each_site_notes_the_run_and_the_note_leads_to_the_run_folder(finished: Path, sites: Path) -> None:
    for path in site_files(sites).values():
        store = open_store(load_site_config(path).store)
        split_of = dict(zip(store.manifest["patient_key"], store.manifest["split"], strict=True))
        patient = str(store.manifest["patient_key"][0])
        uses = runs_that_used(store.folder, frozenset([patient]), "other", run_folders([finished.parent]))
        # Other tests run other jobs over the same sites.
        mine = [use for use in uses if use.folder == str(finished)]
        assert [(use.splits, use.certain) for use in mine] == [((split_of[patient],), True)]
        assert runs_that_used(store.folder, frozenset(["nobody"]), "other", run_folders([finished.parent])) == []
        assert (store.folder / "site_private" / "runs.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_frame_is_bit_identical_before_and_after(finished: Path) -> None:
    state = torch.load(finished / "model_last.pt", weights_only=True)["state_dict"]
    assert not any("frame" in name or "queries" in name for name in state)
    network, settings, _ = load_model(finished / "model_last.pt")
    frame = network.get_buffer("classifier.frame")
    assert torch.equal(frame, simplex_etf(14, frame.shape[1], seed=settings.network.frame_seed))


def test_a_site_that_misses_a_class_leaves_its_row_to_the_others(sites: Path) -> None:
    # After one round: the bias of the missing class is the average of beta and gamma by their positives alone.
    settings = load_job_settings(REPOSITORY / "jobs" / "fednca_cxr" / "job.yaml", OVERRIDES).for_sites()
    row = load_vocabulary("nih14").findings.index(MISSING)
    start = build_network(settings).state_dict()
    biases, positives = [], []
    for path in site_files(sites).values():
        local = SiteWorker(settings, load_site_config(path)).train(start, 0)
        biases.append(float(local.params["classifier.bias"][row]))
        positives.append(float(local.before.statistics.counts[0, row]))
    assert positives[0] == 0
    assert biases[0] != biases[1]
    expected = (biases[1] * positives[1] + biases[2] * positives[2]) / (positives[1] + positives[2])
    one_round = settings.model_copy(update={"rounds": 1})
    assert float(replay(sites, one_round)[1]["classifier.bias"][row]) == pytest.approx(expected, rel=1e-5)


def test_evaluate_measures_what_the_run_reported(finished: Path, sites: Path, tmp_path: Path) -> None:
    nc_medfl("evaluate", finished, "--sites", sites, "--out", tmp_path / "again")
    keys = ["site", "finding", "metric"]
    first = pd.read_csv(finished / "metrics.csv").set_index(keys).sort_index()
    second = pd.read_csv(tmp_path / "again" / "metrics.csv").set_index(keys).sort_index()
    pd.testing.assert_frame_equal(first, second, rtol=1e-4, atol=1e-5)


def test_no_patient_and_no_path_leaves_a_site(finished: Path, sites: Path) -> None:
    keys = set(pd.read_parquet(sites / "alpha" / "store" / "manifest.parquet")["patient_key"])
    for name in ("report.html", "metrics.csv", "metrics.json", "rounds.csv", "collapse.csv", "updates.csv", "run.json"):
        text = (finished / name).read_text()
        assert str(sites) not in text, name
        assert not any(key in text for key in keys), name
    for path in (finished / "flare").rglob("config_fed_*.json"):
        assert str(sites) not in path.read_text(), path


def test_the_job_carries_no_code(finished: Path) -> None:
    assert list((finished / "flare").rglob("config_fed_client.json"))
    assert not list((finished / "flare").rglob("custom"))


def test_a_run_does_not_empty_the_folder_that_holds_its_sites(finished: Path, tmp_path: Path) -> None:
    # An earlier run's folder, which a run may empty, but with the sites in it, as the demo leaves it.
    shutil.copytree(finished, tmp_path / "demo", ignore=shutil.ignore_patterns("flare"))
    store = tiny_site(tmp_path / "demo" / "sites", "a")
    tiny_site(tmp_path / "demo" / "sites", "b", seed=1)
    done = run_job("fednca_cxr", tmp_path / "demo" / "sites", tmp_path / "demo", code=2)
    assert "would be emptied" in done.stderr
    assert shard_path(store.folder, 0).is_file()


def test_the_baseline_runs_as_a_script_of_its_job(sites: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "jobs/fedavg_cxr/job.py", "--sites", str(sites), "--out", str(out), "--json"]
    command += ["--set", "rounds=1", "--set", "network.backbone=small"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    payload = json.loads(done.stdout)
    assert set(payload["macro_auc"]) == {"alpha", "beta", "gamma", "all", "pooled"}
    collapse = pd.read_csv(out / "collapse.csv")
    assert set(collapse["metric"]) == {"n_sites", "n_positive"}


def test_an_error_at_a_site_ends_the_command_with_that_error(tmp_path: Path) -> None:
    for seed, name in enumerate(("alpha", "beta")):
        store = tiny_site(tmp_path / "sites", name, seed=seed)
    shard_path(store.folder, 0).write_bytes(b"not an array")
    out = tmp_path / "run"
    done = run_job("fednca_cxr", tmp_path / "sites", out, code=2)
    assert "nc-medfl: beta: " in done.stderr
    assert "shard 00000.npy is missing or damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((out / "run.json").read_text())["outcome"] == "failed"
    assert not flare_processes(out)


def flare_processes(out: Path) -> list[Any]:
    """Processes, but this one, that have the run's folder on their command line."""
    others = (p.info for p in psutil.process_iter(["cmdline", "pid"]) if p.pid != os.getpid())
    return [info for info in others if str(out) in " ".join(info["cmdline"] or [])]


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed"])
def test_a_stopped_command_leaves_no_process_behind(sites: Path, tmp_path: Path, how: signal.Signals) -> None:
    out = tmp_path / "stopped"
    command = [sys.executable, "-m", "nc_medfl.cli.main", "run", "jobs/fednca_cxr", "--set", "network.backbone=small"]
    command += ["--sites", str(sites), "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=REPOSITORY, start_new_session=True
    )
    try:
        # The simulator's clients are there: the command, its child, the simulator, a process a site.
        assert wait_until(lambda: len(flare_processes(out)) >= 5, 60), flare_processes(out)
        process.send_signal(how)
        code = process.wait(30)
        assert wait_until(lambda: not flare_processes(out), 30), flare_processes(out)
        if how == signal.SIGTERM:
            assert code == 130
            assert json.loads((out / "run.json").read_text())["outcome"] == "failed"
    finally:
        stop(family(process.pid))
