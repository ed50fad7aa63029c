"""Settings: what a wrong key or value says, and what overrides do."""

from __future__ import annotations

from pathlib import Path

import pytest

from nc_medfl.config import (
    JobSettings,
    PrivacySettings,
    SiteConfig,
    load_job_settings,
    load_site_config,
    save_site_config,
)
from nc_medfl.errors import UserError
from nc_medfl.settings import parse
from tests_support import REPOSITORY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nstore: s\nbatchsize: 4\n", "line 3: unknown key 'batchsize'. Did you mean 'batch_size'?"),
        (
            "name: a\nstore: s\nprivacy:\n  min_positive: 4\n",
            "line 4: unknown key 'privacy.min_positive'. Did you mean",
        ),
        ("name: a\n", "the key 'store' is missing"),
        ("name: a\nstore: s\nbatch_size: many\n", "line 3: batch_size: .*integer"),
        ("name: a b\nstore: s\n", "line 1: name: "),
        ("name: a\nstore: [\n", "line 3: not valid YAML"),
        ("- a\n- b\n", "expected 'key: value' lines"),
        ("name: a\nstore: s\ndevice: tpu\n", "line 3: device"),
    ],
)
def test_a_bad_site_config_names_file_line_key_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_site_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_site_config_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.yaml: cannot be read"):
        load_site_config(tmp_path / "none.yaml")


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    save_site_config(SiteConfig(name="a", store=Path("store")), tmp_path / "site.yaml")
    config = load_site_config(tmp_path / "site.yaml")
    assert config.store == tmp_path.resolve() / "store"
    assert config.name == "a"


def test_overrides_are_applied_in_order_and_typed(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: j\ntraining:\n  lr: 0.1\n")
    settings = load_job_settings(path, ["training.lr=1e-3", "rounds=3", "rounds=4", "network.backbone=small"])
    assert (settings.training.lr, settings.rounds, settings.network.backbone) == (1e-3, 4, "small")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rounds", "expected key=value"),
        ("roundss=3", "unknown key 'roundss'. Did you mean 'rounds'?"),
        ("training.learning_rate=3", "unknown key 'training.learning_rate'"),
        ("rounds=many", "--set rounds=many: rounds:"),
        ("rounds=0", "greater than or equal to 1"),
        ("training.betas=[1.5,0.9]", "training.betas.*less than 1"),
        ("network.frame_seed=-1", "network.frame_seed"),
        ("training=3", "training:"),
        ("training.lr.x=3", "lr"),
        ("vocabulary=nope", "no vocabulary 'nope'"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: j\ntraining:\n  lr: 0.1\n")
    with pytest.raises(UserError, match=message):
        load_job_settings(path, [override])


@pytest.mark.parametrize("job", ["fednca_cxr", "fedavg_cxr", "fedprox_cxr", "scaffold_cxr"])
def test_job_yaml_lists_every_setting_with_its_default(job: str) -> None:
    import yaml

    content = yaml.safe_load((REPOSITORY / "jobs" / job / "job.yaml").read_text())
    settings = parse(JobSettings, content, where=job)
    assert settings == JobSettings(name=job, method=job.removesuffix("_cxr"))
    written = {(k, kk) for k, v in content.items() for kk in (v if isinstance(v, dict) else [""])}
    known = {(k, kk) for k, v in settings.model_dump().items() for kk in (v if isinstance(v, dict) else [""])}
    assert written == known


def test_sites_learn_no_path_of_the_server_and_the_normalisation_it_implies() -> None:
    with_weights = parse(JobSettings, {"network": {"init_weights": "/server/w.pt"}}, where="t").for_sites()
    assert with_weights.network.init_weights is None
    assert with_weights.training.normalisation == "imagenet"
    assert JobSettings().for_sites().training.normalisation == "unit"


def test_the_reference_has_a_row_for_every_key_of_a_site() -> None:
    page = (REPOSITORY / "docs" / "reference" / "site.md").read_text(encoding="utf-8")
    keys = [name for name in SiteConfig.model_fields if name != "privacy"]
    keys += [f"privacy.{name}" for name in PrivacySettings.model_fields]
    assert [key for key in keys if f"| `{key}` |" not in page] == []
