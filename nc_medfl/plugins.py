"""Backbones, data sources and federated methods from other installed packages, found by their entry points.

A package names them in its ``pyproject.toml``; a job or a command then takes the name as it takes one of ours::

    [project.entry-points."nc_medfl.methods"]
    mine = "my_package.method:METHOD"

Nothing is imported until it is asked for by name, and only from what is installed on this machine: a job that names a
plug-in carries no code. docs/how-to/extend.md says what each kind must be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar

from nc_medfl.errors import UserError

Kind = Literal["backbones", "sources", "methods"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
T = TypeVar("T")


@cache
def _installed(kind: Kind) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"nc_medfl.{kind}"))


def plugin_names(kind: Kind) -> list[str]:
    """Names of the plug-ins of a kind that are installed here."""
    return sorted({point.name for point in _installed(kind)})


def plugin_packages(kind: Kind) -> dict[str, str]:
    """The package and version that each plug-in of a kind comes from."""
    return {point.name: _package(point) for point in _installed(kind)}


def names_with_plugins(kind: Kind, own: Sequence[str]) -> list[str]:
    """Our own names of a kind, and those of the plug-ins."""
    return [*own, *(name for name in plugin_names(kind) if name not in own)]


def load_plugin(kind: Kind, name: str, wanted: type[T], own: Mapping[str, Any]) -> T | None:
    """Import a plug-in.

    Args:
        kind: of the plug-in.
        name: as in a job or on the command line.
        wanted: what it must be.
        own: those of this package, whose names are taken.

    Returns:
        What its entry point names, or None where no installed package has one of that name.

    Raises:
        UserError: if its name is taken or no name, if it can't be imported, or is something else; naming its package.
    """
    points = [point for point in _installed(kind) if point.name == name]
    if not points:
        return None
    packages = " and ".join(sorted({_package(point) for point in points}))
    about = f"plug-in '{name}' (nc_medfl.{kind}, from {packages})"
    if name in own:
        raise UserError(f"{about}: nc_medfl has one of that name itself. Rename the plug-in, or uninstall its package.")
    if len({point.value for point in points}) > 1:
        raise UserError(f"{about}: two packages offer one of that name. Uninstall one.")
    if not _NAME.fullmatch(name):
        raise UserError(f"{about}: its name must be small letters, digits and '_'. Rename it.")
    try:
        found = points[0].load()
    except Exception as error:  # an import runs whatever the other package has in it
        told = " ".join(str(error).split())[:200]
        raise UserError(
            f"{about}: {points[0].value} can't be imported ({type(error).__name__}: {told}). Mend or uninstall it."
        ) from error
    if not isinstance(found, wanted):
        raise UserError(
            f"{about}: {points[0].value} is a {type(found).__name__}, and must be a {wanted.__name__}. "
            "docs/how-to/extend.md says how it is made."
        )
    return found


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
