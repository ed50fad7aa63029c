"""A job's settings as the argument of a FLARE component, and back.

FLARE takes any dictionary with a ``name`` among a component's arguments for another component to build, so
the settings travel one level down, under ``job``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nc_medfl.config import JobSettings
from nc_medfl.settings import parse


def to_arguments(settings: JobSettings) -> dict[str, Any]:
    """Settings as JSON values that FLARE writes into its job files and leaves alone."""
    return {"job": settings.model_dump(mode="json")}


def from_arguments(arguments: Mapping[str, Any]) -> JobSettings:
    """The settings that :func:`to_arguments` wrapped."""
    return parse(JobSettings, arguments["job"], where="job settings")
