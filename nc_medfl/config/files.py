"""Reading and writing the files that settings stand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nc_medfl.config.job import JobSettings
from nc_medfl.config.site import SiteConfig
from nc_medfl.errors import UserError
from nc_medfl.mistakes import Place
from nc_medfl.overrides import leaves, with_overrides
from nc_medfl.presets import published
from nc_medfl.settings import parse, read_settings
from nc_medfl.yaml_file import YamlFile, read_yaml_file


def load_site_config(path: str | Path) -> SiteConfig:
    """Read a ``site.yaml``; relative paths in it count from its own folder.

    Raises:
        UserError: as :func:`nc_medfl.settings.read_settings`.
    """
    path = Path(path)
    config = read_settings(SiteConfig, path)
    home = path.resolve().parent
    resolved: dict[str, Any] = {
        key: home / value
        for key in ("store", "label_map", "salt_file")
        if isinstance(value := getattr(config, key), Path) and not value.is_absolute()
    }
    audit = config.privacy.audit
    if audit and not audit.is_absolute():
        resolved["privacy"] = config.privacy.model_copy(update={"audit": home / audit})
    return config.model_copy(update=resolved)


def save_site_config(config: SiteConfig, path: str | Path) -> None:
    """Write a ``site.yaml`` with the values that differ from the defaults."""
    content = config.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    Path(path).write_text(f"# Settings of {config.name}, on its own disk. See site_configs/site.example.yaml.\n{text}")


def load_job_settings(path: str | Path, overrides: Sequence[str] = ()) -> JobSettings:
    """Read a ``job.yaml`` and apply ``key.path=value`` overrides.

    Args:
        path: the job's YAML file.
        overrides: texts such as ``rounds=3`` or ``training.lr=1e-3``; values are read as YAML.

    Raises:
        UserError: for a bad file, a malformed override, an unknown key, or an override that ``paper_compat`` undoes.
    """
    return read_job_file(path, overrides)[0]


def read_job_file(
    path: str | Path, overrides: Sequence[str] = ()
) -> tuple[JobSettings, YamlFile, dict[tuple[str, ...], str]]:
    """As :func:`load_job_settings`, with what tells where a value comes from.

    Returns:
        The settings, the file, and for each overridden key the override.
    """
    file = read_yaml_file(Path(path))
    written = _with_vocabulary_beside(Path(path), file.content)
    parse(JobSettings, written, where=Place(str(path), file))
    content, overridden = with_overrides(JobSettings, written, overrides)
    settings = parse(JobSettings, content, where=Place(str(path), file))
    final = leaves(settings.model_dump())
    for keys, text in overridden.items():
        if settings.paper_compat and keys in leaves(published()) and not _same(final[keys], content, keys):
            raise UserError(f"--set {text}: has no effect with paper_compat: true. Leave one of them out.")
    return settings, file, overridden


def _with_vocabulary_beside(path: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A job's values with its vocabulary's file where it lies, if that is beside the job's."""
    name = content.get("vocabulary")
    beside = path.parent / name if isinstance(name, str) else path
    return {**content, "vocabulary": str(beside)} if beside != path and beside.is_file() else content


def _same(value: Any, content: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    given: Any = content
    for key in keys:
        given = given[key]
    return bool(value == given)
