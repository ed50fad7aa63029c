"""Label maps from YAML: those of the package, a hospital's own, and one written into its ``site.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from nc_medfl.errors import UserError
from nc_medfl.labels.label_map import LabelMap
from nc_medfl.mistakes import Place
from nc_medfl.settings import parse
from nc_medfl.yaml_file import read_yaml_file


def available_label_maps() -> list[str]:
    """Names of the label maps that come with the package."""
    return sorted(p.stem for p in _folder().glob("*.yaml"))


def label_map_path(name: str) -> Path:
    """Where a map of the package lies."""
    return _folder() / f"{name}.yaml"


def published_map(source: str, vocabulary: str) -> LabelMap:
    """The package's map of a published source to a vocabulary.

    Raises:
        UserError: naming the maps that there are.
    """
    own = [load_label_map(n) for n in available_label_maps() if n == source or n.startswith(f"{source}-")]
    for label_map in own:
        if label_map.vocabulary == vocabulary:
            return label_map
    there = ", ".join(f"{m.name} (to {m.vocabulary})" for m in own) or ", ".join(available_label_maps())
    raise UserError(
        f"--source {source}: no label map to vocabulary '{vocabulary}' comes with the package; there are: {there}. "
        "Choose another --vocabulary, or give a map of your own with --label-map."
    )


def load_label_map(name_or_path: str | Path) -> LabelMap:
    """Read a label map by its name in the package, from a file, or from a ``site.yaml`` that holds one.

    Raises:
        UserError: naming the file, the line and the key that is wrong.
    """
    path = _folder() / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        raise UserError(f"{path}: no such label map. Give a file, or one of: {', '.join(available_label_maps())}.")
    file = read_yaml_file(path, _TextLoader)
    if isinstance(file.content.get("label_map"), dict):
        # A site config with its map in it.
        content = {"name": str(file.content.get("name", path.stem)), **file.content["label_map"]}
        return parse_label_map(content, Place(str(path), file, (("label_map",),)))
    return parse_label_map(file.content, Place(str(path), file))


def parse_label_map(content: Mapping[str, Any], where: str | Place) -> LabelMap:
    """Check the content of a label map.

    Args:
        content: as YAML gives it.
        where: it comes from: what to call the map in errors.

    Raises:
        UserError: naming the key that is wrong.
    """
    return parse(LabelMap, content, where=where)


class _TextLoader(yaml.SafeLoader):
    """YAML in which yes, no, on and off are text: they are values of label tables."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _folder() -> Path:
    return Path(str(resources.files("nc_medfl.labels"))) / "maps"
