"""Label maps from YAML: those of the package, a hospital's own, and one written into its ``site.yaml``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from nc_medfl.errors import UserError
from nc_medfl.labels.label_map import Delimited, LabelMap, Values


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
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_TextLoader)
    except OSError as error:
        raise UserError(
            f"{path}: the label map cannot be read ({error.strerror}). Give a file, or one of: "
            f"{', '.join(available_label_maps())}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"{path}{f', line {mark.line + 1}' if mark else ''}: not valid YAML. Mend the syntax there."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a label map is made of 'key: value' lines, such as 'image_column: file'.")
    if isinstance(content.get("label_map"), dict):
        # A site config with its map in it.
        content = {"name": str(content.get("name", path.stem)), **content["label_map"]}
        return parse_label_map(content, f"{path}, 'label_map'")
    return parse_label_map(content, str(path), text)


def parse_label_map(content: Mapping[str, Any], where: str, text: str = "") -> LabelMap:
    """Check the content of a label map.

    Args:
        content: as YAML gives it.
        where: what to call the map in errors.
        text: the YAML text, if there is one, to give the line.

    Raises:
        UserError: naming the key that is wrong.
    """
    try:
        return LabelMap.model_validate(content)
    except ValidationError as error:
        raise UserError(_explain(error, where, text)) from error


class _TextLoader(yaml.SafeLoader):
    """YAML in which yes, no, on and off are text: they are values of label tables."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _folder() -> Path:
    return Path(str(resources.files("nc_medfl.labels"))) / "maps"


def _explain(error: ValidationError, where: str, text: str) -> str:
    first = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
    location = [str(part) for part in first["loc"]]
    place = f"{where}{_line_of(text, location)}"
    if first["type"] == "extra_forbidden":
        models: dict[str, type[BaseModel]] = {"values": Values, "delimited": Delimited}
        known = models.get(location[0], LabelMap).model_fields
        near = difflib.get_close_matches(location[-1], list(known), n=1, cutoff=0.5)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Known here: {', '.join(known)}."
        return f"{place}: unknown key '{'.'.join(location)}'. {remedy}"
    if first["type"] == "missing":
        return f"{place}: the key '{'.'.join(location)}' is missing. Add it."
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {': '.join([*location[:1], message])}. Mend the value."


def _line_of(text: str, location: Sequence[str]) -> str:
    node = yaml.compose(text, Loader=_TextLoader) if text else None
    line = 0
    for key in location:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((k, v) for k, v in pairs if k.value == key), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f", line {line}" if line else ""
