"""JSON Schema of the files that people write, for editors: keys, types, values, and what each means."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    """The schema of a settings class; descriptions are those of its docstrings.

    Args:
        model: the settings.
        title: of the schema.
    """
    schema = model.model_json_schema()
    for one, found in ((model, schema), *_definitions(model, schema)):
        _describe(one, found)
    return {"$schema": _DIALECT, **schema, "title": title}


def _definitions(model: type[BaseModel], schema: dict[str, Any]) -> list[tuple[type[BaseModel], dict[str, Any]]]:
    classes = {one.__name__: one for one in _classes(model)}
    return [(classes[name], found) for name, found in schema.get("$defs", {}).items() if name in classes]


def _classes(model: type[BaseModel]) -> set[type[BaseModel]]:
    found, waiting = set[type[BaseModel]](), [BaseModel]
    while waiting:
        for one in waiting.pop().__subclasses__():
            if one not in found and one.__module__.startswith("nc_medfl"):
                found.add(one)
            waiting.append(one)
    return found - {model}


def _describe(model: type[BaseModel], schema: dict[str, Any]) -> None:
    text = model.__doc__ or ""
    schema["description"] = _plain(text.split("\n\n")[0])
    for name, told in attributes(text).items():
        if name in schema.get("properties", {}):
            schema["properties"][name].setdefault("description", told)


def attributes(docstring: str) -> dict[str, str]:
    """What a docstring says below ``Attributes:``, by name.

    Example:
        >>> attributes("Attributes:\\n        a: one\\n            and more.\\n        b: two.\\n    ")
        {'a': 'one and more.', 'b': 'two.'}
    """
    section = re.search(r"Attributes:\n(.*?)(?:\n\s*\n|\Z)", docstring, re.DOTALL)
    entries = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|\Z)", section[1] if section else "", re.DOTALL | re.MULTILINE)
    return {name: _plain(told) for name, told in entries}


def _plain(text: str) -> str:
    text = re.sub(r":\w+:`[~!]?([^`]*)`", r"\1", text)
    return " ".join(text.replace("``", "").split())
