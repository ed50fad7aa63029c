"""``--set key.path=value``: single settings laid over what a file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from nc_medfl.errors import UserError
from nc_medfl.presets import merged
from nc_medfl.settings import parse

Path = tuple[str, ...]


def with_overrides(
    model: type[BaseModel], content: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[Path, str]]:
    """Settings with overrides laid over them, in order.

    Args:
        model: what the settings must be after each of them.
        content: nested values as read from a file.
        overrides: texts such as ``rounds=3`` or ``training.lr=1e-3``; values are read as YAML.

    Returns:
        The nested values, and for each key that was overridden the text that did it last.

    Raises:
        UserError: for a malformed override, an unknown key, or a value that can't be.
    """
    out = dict(content)
    by: dict[Path, str] = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        keys = tuple(key.strip().split("."))
        if not sign or not all(keys):
            raise UserError(f"--set {text}: expected key=value, as in --set training.lr=1e-3.")
        _check_above(out, keys, text)
        where = f"--set {text}"
        read = _yaml_value(value)
        try:
            parse(model, _laid(out, keys, read), where=where)
        except UserError:
            # On a command line everything is text: a name such as 2026 needs no quotes of its own.
            if isinstance(read, str) or not isinstance(read, bool | int | float):
                raise
            if not _fits(model, _laid(out, keys, value)):
                raise
            read = value
        out = _laid(out, keys, read)
        by |= dict.fromkeys(leaves(_nested(keys, read)), text)
    return out, by


def leaves(content: Mapping[str, Any]) -> dict[Path, Any]:
    """The single values of nested settings, by the keys that lead to them.

    Example:
        >>> leaves({"seed": 0, "loss": {"margin": 0.3}})
        {('seed',): 0, ('loss', 'margin'): 0.3}
    """
    out: dict[Path, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            out |= {(key, *below): one for below, one in leaves(value).items()}
        else:
            out[(key,)] = value
    return out


def _laid(content: Mapping[str, Any], keys: Path, value: Any) -> dict[str, Any]:
    return merged(content, _nested(keys, value))


def _nested(keys: Path, value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    out: dict[str, Any] = value
    return out


def _check_above(content: Mapping[str, Any], keys: Path, text: str) -> None:
    here: Any = content
    for key in keys[:-1]:
        here = here.get(key, {})
        if here is not None and not isinstance(here, Mapping):
            raise UserError(f"--set {text}: '{key}' holds a single value, so nothing can be set below it.")
        here = here or {}


def _fits(model: type[BaseModel], content: Mapping[str, Any]) -> bool:
    try:
        parse(model, content, where="")
    except UserError:
        return False
    return True


def _yaml_value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text; people mean the number.
        try:
            return float(value)
        except ValueError:
            return value
    return value
