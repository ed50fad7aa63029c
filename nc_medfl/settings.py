"""Reading settings from YAML: a wrong key or value ends in one line that names file, line, key and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from nc_medfl.errors import UserError


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values don't change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


S = TypeVar("S", bound=Settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: if the file is missing, unreadable, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML. Mend the syntax there.") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: expected 'key: value' lines. See the examples in site_configs/ and jobs/.")
    return content


def parse(model: type[S], content: Mapping[str, Any], *, where: str, text: str | None = None) -> S:
    """Check values against a settings model.

    Args:
        model: the settings class.
        content: nested values as read.
        where: what to name in an error: a file, or the option the values came from.
        text: the YAML text, if there is one, to give the line.

    Raises:
        UserError: one line with the first thing that is wrong, and the remedy.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        raise UserError(_explain(model, error, where, text)) from error


def _explain(model: type[BaseModel], error: ValidationError, where: str, text: str | None) -> str:
    first = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
    location = [str(part) for part in first["loc"]]
    place = where + _line_of(text, location)
    dotted = ".".join(location)
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Known here: {', '.join(known)}."
        return f"{place}: unknown key '{dotted}'. {remedy}"
    if first["type"] == "missing":
        return f"{place}: the key '{dotted}' is missing. Add it."
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {dotted}: {message} (given: {first['input']!r}). Mend the value."


def _keys_at(model: type[BaseModel], location: Iterable[str]) -> list[str]:
    for key in location:
        annotation = model.model_fields[key].annotation if key in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _line_of(text: str | None, location: Sequence[str]) -> str:
    """``, line N`` of a key in YAML text, or nothing where it can't be told."""
    if text is None or not location:
        return ""
    node = yaml.compose(text)
    line: int | None = None
    for key in location:
        if not isinstance(node, yaml.MappingNode):
            break
        for key_node, value_node in node.value:
            if key_node.value == key:
                line, node = key_node.start_mark.line + 1, value_node
                break
        else:
            break
    return f", line {line}" if line else ""
