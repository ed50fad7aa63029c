"""Each site's own model and a pooled one, beside the federation's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from nc_medfl.cli.main import app
from nc_medfl.config import load_job_settings, load_site_config
from nc_medfl.data.store import open_store
from nc_medfl.errors import UserError
from nc_medfl.federation.baselines import together
from nc_medfl.federation.local import LocalFederation
from nc_medfl.federation.site import site_files
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import fingerprints, load_model, save_model
from tests_support import REPOSITORY, tiny_site, tiny_store

OVERRIDES = ["rounds=1", "network.backbone=small", "training.lr=1e-3", "evaluation.resamples=5"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for seed, name in enumerate(("alpha", "beta")):
        tiny_site(folder, name, seed=seed, images=60)
    return folder


@pytest.fixture(scope="module")
def model(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = load_job_settings(REPOSITORY / "jobs" / "fednca_cxr" / "job.yaml", OVERRIDES)
    configs = {name: load_site_config(path) for name, path in site_files(sites).items()}
    found = LocalFederation(settings, configs, tmp_path_factory.mktemp("state")).run()
    network = SiteWorker(settings, configs["alpha"]).network
    path = tmp_path_factory.mktemp("model") / "federated.pt"
    prints = fingerprints(network, load_vocabulary("nih14"))
    save_model(path, found.model, settings.for_sites(), rounds=found.round, prints=prints)
    return path


def test_one_command_says_of_each_site_whether_the_federation_is_better(model: Path, sites: Path, tmp_path: Path):
    arguments = ["evaluate", model, "--sites", sites, "--against", "local", "--against", "pooled", "--out", tmp_path]
    done = CliRunner().invoke(app, [str(part) for part in arguments])
    assert done.exit_code == 0, done.output
    for place in ("at alpha", "at beta", "on average over sites"):
        assert f"auc of macro {place}: federated" in done.stdout
    rows = pd.read_csv(tmp_path / "comparisons.csv")
    own = rows[rows["model_b"] == "the site's own model"]
    assert set(own["site"]) == {"alpha", "beta", "all"}  # scores of two models have no common order
    assert set(rows[rows["model_b"] == "a model of all images in one place"]["site"]) == {*own["site"], "pooled"}
    network, settings, _ = load_model(tmp_path / "baselines" / "local-beta.pt")
    worker = SiteWorker(settings, load_site_config(site_files(sites)["beta"]))
    worker.load(network.state_dict())
    found = worker.predictions("test")
    aucs = own[(own["site"] == "beta") & (own["metric"] == "auc")].set_index("finding")
    for c, finding in enumerate(worker.vocabulary.findings):
        if {0, 1} <= set(found.labels[:, c]):
            expected = roc_auc_score(found.labels[:, c], found.scores[:, c])
            assert aucs.loc[finding, "value_b"] == pytest.approx(expected, abs=1e-5)
    # Asked again, nothing is trained again.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "baselines").glob("*.pt")}
    assert len(before) == 3
    first = (tmp_path / "comparisons.csv").read_bytes()
    assert CliRunner().invoke(app, [str(part) for part in arguments]).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "comparisons.csv").read_bytes() == first


def test_stores_put_together_hold_every_image_with_its_labels_and_no_patient_of_two_sites(tmp_path: Path):
    stores = {name: tiny_store(tmp_path / name, images=20, seed=5, site=name) for name in ("a", "b")}
    whole = together(stores)
    assert len(whole) == 40
    np.testing.assert_array_equal(
        whole.images(range(40)), np.concatenate([s.images(range(20)) for s in stores.values()])
    )
    np.testing.assert_array_equal(whole.labels(), np.concatenate([s.labels() for s in stores.values()]))
    assert whole.manifest["patient_key"].nunique() == 20
    same = {"a": stores["a"], "b": open_store(stores["a"].folder)}
    assert together(same).manifest["patient_key"].nunique() == 20  # equal keys, two patients


def test_images_of_different_sizes_are_not_put_together(tmp_path: Path):
    stores = {"a": tiny_store(tmp_path / "a", images=6), "b": tiny_store(tmp_path / "b", images=6, size=64)}
    with pytest.raises(UserError, match="sites a and b store images of different sizes"):
        together(stores)


def test_a_table_of_predictions_has_nothing_to_train_on(tmp_path: Path):
    arguments = ["evaluate", "--predictions", "a.csv", "--against", "local", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UserError)
    assert "needs RUN and --sites" in str(done.exception)
