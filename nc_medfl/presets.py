"""The settings of FedNCA-ML itself: as published, and as this package has it by default (``presets.yaml``)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

Nested = dict[str, Any]


@lru_cache(maxsize=1)
def _presets() -> dict[str, Nested]:
    content: dict[str, Nested] = yaml.safe_load(Path(__file__).with_name("presets.yaml").read_text(encoding="utf-8"))
    return content


def published() -> Nested:
    """What makes the published method."""
    return copy.deepcopy(_presets()["published"])


def with_presets(content: Mapping[str, Any]) -> Nested:
    """A job's settings as given, with the published values over them or this package's own below them.

    Args:
        content: ``method`` (``fednca`` unless named), ``paper_compat``, and the rest.
    """
    if content.get("method", "fednca") != "fednca":
        return dict(content)
    presets = _presets()
    if content.get("paper_compat"):
        return merged(content, presets["published"])
    return merged(presets["default"], content)


def merged(*layers: Mapping[str, Any]) -> Nested:
    """Nested settings laid on top of one another, the last on top."""
    out: Nested = {}
    for layer in layers:
        for key, given in layer.items():
            value = given.model_dump(exclude_unset=True) if isinstance(given, BaseModel) else given
            if isinstance(value, Mapping):
                below = out.get(key)
                out[key] = merged(below if isinstance(below, dict) else {}, value)
            else:
                out[key] = value
    return out
