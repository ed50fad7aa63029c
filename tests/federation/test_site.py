"""Finding a site's settings, and what is told before a federation starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from nc_medfl.errors import UserError
from nc_medfl.federation import keys
from nc_medfl.federation.site import check_sites, find_site_config, site_files
from nc_medfl.labels import Vocabulary, load_vocabulary
from tests_support import tiny_site

NIH = load_vocabulary("nih14")


def test_a_missing_folder_and_a_folder_without_sites_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        site_files(tmp_path / "none")
    with pytest.raises(UserError, match=r"no site.yaml in it"):
        site_files(tmp_path)


def test_two_files_for_one_site_are_told(tmp_path: Path) -> None:
    tiny_site(tmp_path, "a")
    (tmp_path / "a.yaml").write_text("name: a\nstore: a/store\n")
    with pytest.raises(UserError, match="site 'a' is also described in"):
        site_files(tmp_path)


def test_examples_are_no_sites(tmp_path: Path) -> None:
    tiny_site(tmp_path, "a")
    (tmp_path / "site.example.yaml").write_text("name: example\nstore: nowhere\n")
    assert list(site_files(tmp_path)) == ["a"]


def test_settings_are_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_site(tmp_path / "sites", "a")
    monkeypatch.setenv(keys.ENV_SITES_DIR, str(tmp_path / "sites"))
    assert find_site_config("a").store == (tmp_path / "sites" / "a" / "store").resolve()
    local = tmp_path / "workspace" / "local"
    local.mkdir(parents=True)
    (local / "site.yaml").write_text("name: a\nstore: /from/workspace\n")
    assert find_site_config("a", tmp_path / "workspace").store == Path("/from/workspace")
    (tmp_path / "named.yaml").write_text("name: a\nstore: /from/environment\n")
    monkeypatch.setenv(keys.ENV_SITE_CONFIG, str(tmp_path / "named.yaml"))
    assert find_site_config("a", tmp_path / "workspace").store == Path("/from/environment")
    with pytest.raises(UserError, match="describes site 'a', but this is 'b'"):
        find_site_config("b", tmp_path / "workspace")


def test_a_site_without_settings_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.ENV_SITES_DIR, raising=False)
    with pytest.raises(UserError, match="site a: no settings found"):
        find_site_config("a", tmp_path)


def test_sites_with_different_vocabularies_are_refused(tmp_path: Path) -> None:
    tiny_site(tmp_path, "a")
    tiny_site(tmp_path, "b", vocabulary=Vocabulary("mine", NIH.findings[:-1]))
    with pytest.raises(UserError, match=r"site b: .*'mine'.*differing in Pneumothorax"):
        check_sites(tmp_path, NIH)


def test_images_smaller_than_what_the_job_wants_are_refused_with_key_and_remedy(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tiny_site(tmp_path, name)
    stored = max(check_sites(tmp_path, NIH)[0]["a"].shape)
    assert len(check_sites(tmp_path, NIH, stored)[0]) == 2
    with pytest.raises(UserError, match=rf"site a: image_size is {stored + 1}, .*--set image_size={stored}\)"):
        check_sites(tmp_path, NIH, stored + 1)


def test_findings_without_validation_positives_are_a_warning(tmp_path: Path) -> None:
    tiny_site(tmp_path, "a", missing=["Hernia"])
    tiny_site(tmp_path, "b", splits={"train": 0.8, "test": 0.2})
    _, warnings = check_sites(tmp_path, NIH)
    assert any(w.startswith("a: 0 validation positives for Hernia;") for w in warnings)
    assert any(w.startswith("b: no validation positive at all") for w in warnings)


def test_no_site_with_a_validation_positive_is_an_error(tmp_path: Path) -> None:
    for name in "ab":
        tiny_site(tmp_path, name, splits={"train": 0.8, "test": 0.2})
    with pytest.raises(UserError, match="no round can be chosen"):
        check_sites(tmp_path, NIH)


def test_one_site_is_no_federation(tmp_path: Path) -> None:
    tiny_site(tmp_path, "a")
    with pytest.raises(UserError, match="needs two or more"):
        check_sites(tmp_path, NIH)


def test_a_site_without_training_images_is_told(tmp_path: Path) -> None:
    tiny_site(tmp_path, "a")
    tiny_site(tmp_path, "b", splits={"val": 0.5, "test": 0.5})
    with pytest.raises(UserError, match="site b: no training images"):
        check_sites(tmp_path, NIH)
