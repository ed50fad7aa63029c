"""Jobs without training, on FLARE's simulator by the public command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from nc_medfl.config import JobSettings, load_job_settings, load_site_config
from nc_medfl.federation.label_counts import site_counts
from nc_medfl.federation.site import site_files
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.labels import load_vocabulary
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network, fingerprints, save_model
from tests_support import REPOSITORY, tiny_site

STRICT = "gamma"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for seed, name in enumerate(("alpha", "beta", STRICT)):
        tiny_site(folder, name, seed=seed, images=120, prevalence=0.15, missing=["Hernia"] if name == "alpha" else [])
    with (folder / STRICT / "site.yaml").open("a") as stream:
        stream.write("privacy:\n  min_positives: 12\n")
    return folder


def run_job(job: str, sites: Path, out: Path, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"jobs/{job}/job.py", "--sites", str(sites), "--out", str(out), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=REPOSITORY, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.mark.parametrize("job", ["label_statistics", "evaluate_cxr"])
def test_job_yaml_lists_settings_with_their_defaults(job: str) -> None:
    settings = load_job_settings(REPOSITORY / "jobs" / job / "job.yaml")
    assert settings == JobSettings(name=job, kind=job.removesuffix("_cxr"))


def test_label_statistics_are_what_each_site_lets_out(sites: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run_job("label_statistics", sites, out)
    content = json.loads((out / "label_statistics.json").read_text())
    workers = {name: load_site_config(path) for name, path in site_files(sites).items()}
    from nc_medfl.data.store import open_store

    for name, config in workers.items():
        assert content["sites"][name] == site_counts(open_store(config.store), config.privacy.min_positives)
    assert content["sites"][STRICT]["minimum"] == 12
    rows = pd.read_csv(out / "label_statistics.csv")
    assert set(rows["site"]) == {"alpha", "beta", STRICT, "all"}
    hernia = rows[(rows["finding"] == "Hernia") & (rows["split"] == "train")].set_index("site")["n_positive"]
    assert hernia["alpha"] == 0
    assert hernia["all"] == hernia[["alpha", "beta", STRICT]].sum()
    assert (out / "label_cooccurrence.csv").is_file()
    assert any("Hernia" in line and "none at 1" in line for line in done.stdout.splitlines())
    record = json.loads((out / "run.json").read_text())
    assert (record["outcome"], record["kind"]) == ("finished", "label_statistics")
    assert not list(out.glob("*.pt"))
    # The server's own log holds no count that is withheld: only what the sites sent is there.
    assert str(sites) not in (out / "label_statistics.json").read_text()


def test_a_given_model_is_tested_at_every_site(sites: Path, tmp_path: Path) -> None:
    content = {"name": "trained", "method": "fedavg", "network": {"backbone": "small"}, "seed": 5}
    trained = parse(JobSettings, content, where="test").for_sites()
    network = build_network(trained)
    prints = fingerprints(network, load_vocabulary("nih14"))
    model = tmp_path / "model.pt"
    save_model(model, network.state_dict(), trained, rounds=3, prints=prints)
    out = tmp_path / "run"
    done = run_job("evaluate_cxr", sites, out, "--set", f"model={model}", "--set", "evaluation.resamples=0", "--json")
    rows = pd.read_csv(out / "metrics.csv").set_index(["site", "finding", "metric"])
    assert set(rows.index.get_level_values("site")) == {"alpha", "beta", STRICT, "all"}
    settings = trained.model_copy(
        update={"name": "evaluate_cxr", "evaluation": trained.evaluation.model_copy(update={"resamples": 0})}
    )
    values = []
    for name, path in site_files(sites).items():
        for row in SiteWorker(settings, load_site_config(path)).evaluate(network.state_dict()):
            if row["value"] is not None:
                found = rows.loc[(name, row["finding"], row["metric"]), "value"]
                assert found == pytest.approx(row["value"], abs=1e-5), row
                values.append(found)
    assert len(values) > 100
    payload = json.loads(done.stdout)
    assert set(payload["macro_auc"]) == {"alpha", "beta", STRICT, "all"}
    assert (out / "report.html").is_file()
    record = json.loads((out / "run.json").read_text())
    assert record["fingerprints"]["model"] == prints["model"]
    assert not (out / "rounds.csv").exists()
    # Sites learn no path of the server's.
    for path in (out / "flare").rglob("config_fed_client.json"):
        assert str(model) not in path.read_text(), path


@pytest.mark.parametrize(
    ("override", "message"),
    [("rounds=1", "no model named"), ("model=pyproject.toml", "not a model file"), ("model=none.pt", "none.pt")],
)
def test_a_model_that_is_none_is_a_users_mistake(sites: Path, tmp_path: Path, override: str, message: str) -> None:
    done = run_job("evaluate_cxr", sites, tmp_path / "run", "--set", override, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
