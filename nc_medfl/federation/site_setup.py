"""Making a startup kit ready: a hospital's ``site.yaml``, the classes it lets jobs use, and its word on custom code.

First everything that is to be written is worked out and shown, then it is written, each file whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nc_medfl.config import SiteConfig, load_site_config
from nc_medfl.data.private import write_private
from nc_medfl.data.store import open_store, write_atomic
from nc_medfl.errors import UserError
from nc_medfl.federation.kit import (
    ALLOW_LIST,
    AUTHORIZATION,
    OUR_CLASSES,
    RESOURCES,
    SITE_CONFIG,
    Json,
    Kit,
    custom_code_roles,
    policy_file,
    read_json,
    with_our_classes,
    with_own_storage,
    without_custom_code,
)
from nc_medfl.settings import parse

#: Folder in a server's kit for its jobs and snapshots.
STORAGE = "storage"


@dataclass(frozen=True)
class Change:
    """A file that is to be written.

    Attributes:
        path: it.
        content: all of it.
        what: what changes by it, for a person.
        private: whether only its owner may read it.
    """

    path: Path
    content: bytes
    what: str
    private: bool = False


def site_config(kit: Kit, answers: Mapping[str, Any]) -> SiteConfig:
    """A hospital's settings from what it answered, with paths made absolute.

    Args:
        kit: the hospital's; its name is the site's.
        answers: keys of ``site.yaml`` but ``name``; None is left out.

    Raises:
        UserError: if a value is wrong, or the store is none.
    """
    given = {key: value for key, value in answers.items() if value is not None}
    for key in ("store", "label_map", "salt_file"):
        if key in given:
            given[key] = str(Path(given[key]).expanduser().resolve())
    config = parse(SiteConfig, {"name": kit.name, **given}, where="site init")
    open_store(config.store)
    return config


def plan_site(kit: Kit, config: SiteConfig, *, forbid_custom_code: bool, replace: bool) -> list[Change]:
    """What has to be written into a hospital's kit. What is as wanted already is left out.

    Args:
        kit: of a hospital.
        config: its settings.
        forbid_custom_code: whether jobs that bring code of their own are to be refused here.
        replace: whether another ``site.yaml`` may be replaced.

    Raises:
        UserError: if there is another ``site.yaml``, or a file of the kit can't be read.
    """
    changes = _plan_resources(kit, with_our_classes, f"{OUR_CLASSES} added to {ALLOW_LIST}, so that the jobs run here")
    if forbid_custom_code:
        changes += _plan_authorization(kit)
    return changes + _plan_config(kit, config, replace=replace)


def plan_server(kit: Kit) -> list[Change]:
    """What has to be written into a server's kit.

    Raises:
        UserError: if a file of the kit can't be read.
    """
    storage = kit.folder.resolve() / STORAGE
    return _plan_resources(
        kit,
        lambda resources: with_own_storage(with_our_classes(resources), storage),
        f"{OUR_CLASSES} in {ALLOW_LIST}; jobs and snapshots kept in {storage}",
    )


def carry_out(changes: Sequence[Change]) -> None:
    """Write what was planned.

    Raises:
        UserError: if a file can't be written; those before it are.
    """
    for change in changes:
        try:
            (write_private if change.private else write_atomic)(change.path, change.content)
        except OSError as error:
            raise UserError(f"{change.path}: cannot be written ({error.strerror}). Check who owns the kit.") from error


def _plan_resources(kit: Kit, wanted: Any, what: str) -> list[Change]:
    former = read_json(policy_file(kit, RESOURCES))
    fresh = wanted(former)
    return [] if fresh == former else [Change(kit.local / RESOURCES, _json(fresh), what)]


def _plan_authorization(kit: Kit) -> list[Change]:
    path = policy_file(kit, AUTHORIZATION)
    former = read_json(path)
    try:
        roles = custom_code_roles(former)
    except (KeyError, AttributeError) as error:
        raise UserError(f"{path}: not an authorization policy (no 'permissions' by role). Mend it.") from error
    if not roles:
        return []
    what = f"jobs that bring code of their own are refused (were allowed for: {', '.join(roles)})"
    return [Change(kit.local / AUTHORIZATION, _json(without_custom_code(former)), what)]


def _plan_config(kit: Kit, config: SiteConfig, *, replace: bool) -> list[Change]:
    path = kit.local / SITE_CONFIG
    if path.exists() and not replace:
        if _same(path, config):
            return []
        raise UserError(f"{path}: there already, with other settings. Edit it, or give --replace.")
    return [Change(path, site_yaml(config).encode(), f"settings of {config.name}", private=True)]


def _same(path: Path, config: SiteConfig) -> bool:
    try:
        return load_site_config(path) == config
    except UserError:
        return False


def site_yaml(config: SiteConfig) -> str:
    """A ``site.yaml`` with every key that was given, be it the default or not."""
    content = config.model_dump(mode="json", exclude_unset=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return f"# Settings of {config.name}, on its own disk. Every key: docs/reference/site.md\n{text}"


def _json(content: Json) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
