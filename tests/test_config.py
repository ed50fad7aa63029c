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
        ("", "is empty"),
        ("# only a remark\n", "is empty"),
        ("name: a\nstore: s\nname: b\n", "line 3: the key 'name' stands in line 1 already"),
        ("name: a\nstore: s\nprivacy:\n\tmin_positives: 4\n", "line 4: not valid YAML: a tab"),
        (
            "name: a\nstore: s\nprivacy: {min_positives: 1, min_positives: 2}\n",
            "line 3: the key 'min_positives' stands",
        ),
        ("name: a\nstore: s\nmin_positives: 5\n", "line 3: unknown key 'min_positives'. Did you mean 'privacy.min_pos"),
        ("name: a\nstore: s\nthreads: yes\n", "line 3: threads: expected a whole number"),
        ("name: no\nstore: s\n", "line 1: name: expected text; put it in quotes .given: false."),
        ("name: a\nstore: s\nyes: 1\n", "line 3: YAML doesn't read the key 'yes' as text. Put it in quotes"),
        ("name: a\nstore: s\nprivacy: {delta: .nan}\n", "line 3: privacy.delta: expected a finite number"),
        (
            "name: a\nstore: s\nprivacy:\n  dp_sgd: {max_grad_norm: 1}\n",
            "line 4: the key 'privacy.dp_sgd.multiplier' is",
        ),
        (
            "name: a\nstore: s\nprivacy:\n  allowed_methods:\n  - fedavg\n  - fednca2\n",
            "line 6: privacy.allowed_methods.1: 'fednca2' is none of .* Did you mean 'fednca'",
        ),
        ("name: a\x00\n", "line 1: holds a control character"),
        ("name: a\nstore: s: t\n", "line 2: not valid YAML: a second ': '"),
        ("--- \nname: a\n---\nname: b\n", "line 3: not valid YAML"),
        ("[" * 1200, "nested too deeply"),
    ],
)
def test_a_bad_site_config_names_file_line_key_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_site_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: a\nstore: caf\u00e9\n".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8 text. Save"),
        ("name: a\n".encode("utf-16"), "UTF-16, not UTF-8"),
    ],
)
def test_a_file_in_another_encoding_is_told_as_such(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "site.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_site_config(tmp_path / "site.yaml")


def test_a_byte_order_mark_of_windows_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_bytes("name: a\nstore: s\n".encode("utf-8-sig"))
    assert load_site_config(tmp_path / "site.yaml").name == "a"


def test_each_mistake_of_a_file_has_a_line_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("rounds: many\nloss:\n  negatives: top\n  margn: 1\nlr: 0.1\n")
    with pytest.raises(UserError) as caught:
        load_job_settings(path)
    assert str(caught.value).splitlines() == [
        f"{path}, line 1: rounds: expected a whole number (integer) (given: 'many'). Mend the value.",
        f"{path}, line 3: loss.negatives: 'top' is none of topk, all, random. Did you mean 'topk'?",
        f"{path}, line 4: unknown key 'loss.margn'. Did you mean 'loss.margin'?",
        f"{path}, line 5: unknown key 'lr'. Did you mean 'training.lr'?",
    ]


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
        ("network.in_channels=true", "network.in_channels: 'true' is none of 1, 3"),
        ("vocabulary=nih15", "and no such file. Did you mean 'nih14'?"),
        ("vocabulary={name: a, finding: [x]}", "unknown key 'vocabulary.finding'. Did you mean 'vocabulary.findings'?"),
        ("training.learning_rate=1", "Did you mean 'training.lr'"),
        ("margin=0.2", "Did you mean 'loss.margin'"),
        ("loss.negatives=topkk", "loss.negatives: 'topkk' is none of topk, all, random. Did you mean 'topk'"),
        ("seed=yes", "whole number"),
        ("training.lr=inf", "finite"),
        ("loss.=3", "expected key=value"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: j\ntraining:\n  lr: 0.1\n")
    with pytest.raises(UserError, match=message):
        load_job_settings(path, [override])


def test_an_override_of_a_section_leaves_the_rest_of_it_and_a_name_may_be_a_number(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: j\nloss: {temperature: 0.08}\n")
    settings = load_job_settings(path, ["loss={margin: 0.2}", "name=2026"])
    assert (settings.loss.margin, settings.loss.temperature, settings.name) == (0.2, 0.08, "2026")


def test_an_override_that_the_published_settings_undo_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: j\npaper_compat: true\nloss: {margin: 0.5}\n")
    assert load_job_settings(path, ["loss.margin=0.3", "rounds=2"]).loss.margin == 0.3
    with pytest.raises(UserError, match=r"--set loss.margin=0.2: has no effect with paper_compat: true"):
        load_job_settings(path, ["loss.margin=0.2"])


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


@pytest.mark.parametrize("name", ["mid.hosp", ".a", "a b", "", "a" * 65])
def test_a_site_has_a_name_that_flare_takes_for_one_site(name: str) -> None:
    # To FLARE "mid.hosp" is a child of the site "mid", which there is none of.
    with pytest.raises(ValueError, match="name"):
        SiteConfig(name=name, store=Path("store"))
    assert SiteConfig(name="mid-hosp_2", store=Path("store")).name == "mid-hosp_2"
    assert JobSettings(name="fednca_cxr.v2").name == "fednca_cxr.v2"
