"""Partitions by name: what ``dirichlet0.1+missing5`` stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nc_medfl.mistakes import nearest

_PARTS = {
    "dirichlet": ("alpha", float),
    "missing": ("missing_classes", int),
    "quantity": ("quantity_alpha", float),
    "unknown": ("unknown", int),
    "asnegative": ("unknown", int),
}
_ALL = (
    "Join iid, natural, dirichlet<alpha>, missing<n>, quantity<alpha>, unknown<n>, asnegative<n> by '+', or give the "
    "partition's settings below its name."
)


def partition_by_name(name: str) -> dict[str, Any]:
    """The settings that a partition's name stands for: parts joined by ``+``.

    Example:
        >>> partition_by_name("dirichlet0.1+missing5")
        {'alpha': 0.1, 'missing_classes': 5}

    Raises:
        ValueError: if a part is unknown, has no number where one belongs, or sets again what another part sets.
    """
    out: dict[str, Any] = {}
    for part in name.split("+"):
        found = _part(part)
        if found is None:
            near = nearest(re.sub(r"[0-9.]+$", "", part), ["iid", "natural", *_PARTS])
            hint = f" Did you mean '{near}'?" if near and near != part else ""
            raise ValueError(f"partitions: '{name}': no part '{part}'.{hint} {_ALL}")
        if twice := set(found) & set(out):
            raise ValueError(f"partitions: '{name}': {', '.join(sorted(twice))} is set twice. Leave one part out.")
        out |= found
    return out


def named_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a partition's name stands for beside settings below it; nothing if it is a name of the user's own.

    Args:
        name: of the partition.
        given: the settings below it.

    Raises:
        ValueError: if they set otherwise what the name says.
    """
    if any(_part(part) is None for part in name.split("+")):
        return {}
    said = partition_by_name(name)
    for key, value in said.items():
        if key in given and given[key] != value:
            raise ValueError(
                f"partitions: '{name}' stands for {key}: {value}, and {key}: {given[key]} stands below it. "
                "Give the partition a name of its own."
            )
    return said


def _part(part: str) -> dict[str, Any] | None:
    """What one part stands for, or None."""
    if part in ("iid", "natural"):
        return {"natural": True} if part == "natural" else {}
    match = re.fullmatch(r"([a-z]+)([0-9.]+)", part)
    if match is None or match[1] not in _PARTS:
        return None
    key, kind = _PARTS[match[1]]
    try:
        number = kind(match[2])
    except ValueError:
        return None
    return {key: number, "unknown_as": "negative"} if match[1] == "asnegative" else {key: number}
