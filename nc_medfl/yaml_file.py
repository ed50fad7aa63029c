"""YAML files read strictly: each mistake is told with its line, and nothing is taken for something else in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nc_medfl.errors import UserError

Key = str | int

_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_BYTE_ORDER = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK": "a zip archive", b"\x89P": "a picture"}


@dataclass(frozen=True)
class YamlFile:
    """A YAML file of ``key: value`` lines, as read.

    Attributes:
        path: of the file.
        content: its values.
        node: where each of them stands.
    """

    path: Path
    content: dict[str, Any]
    node: yaml.MappingNode

    def line(self, location: Sequence[Key]) -> int | None:
        """The line of a key or an entry, counted from 1, or of what holds it where it isn't there itself."""
        line: int | None = None
        node: yaml.Node | None = self.node
        for key in location:
            found = _step(node, key)
            if found is None:
                break
            line, node = found
        return line

    def holds(self, location: Sequence[Key]) -> bool:
        """Whether a key or an entry is written in the file."""
        node: yaml.Node | None = self.node
        for key in location:
            found = _step(node, key)
            if found is None:
                return False
            node = found[1]
        return True


def read_yaml_file(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> YamlFile:
    """Read a YAML mapping whose keys are texts, each given once.

    Args:
        path: of the file.
        loader: what is read as a number, a truth value and so on.

    Raises:
        UserError: naming the file, the line and the remedy.
    """
    text = _text_of(path)
    try:
        reader = loader(text)
        try:
            node = reader.get_single_node()
            if isinstance(node, yaml.MappingNode):
                _check_keys(path, node)
            content = reader.construct_document(node) if node is not None else None
        finally:
            reader.dispose()
    except yaml.YAMLError as error:
        raise UserError(_syntax(path, text, error)) from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply. Give plain 'key: value' lines.") from error
    except ValueError as error:  # a date such as 2020-99-99
        raise UserError(f"{path}: holds a value that YAML can't read ({error}). Put it in quotes.") from error
    if node is None or content is None:
        raise UserError(f"{path}: is empty. See the examples in site_configs/ and jobs/.")
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}, line 1: expected 'key: value' lines. See the examples in site_configs/ and jobs/.")
    return YamlFile(path, content, node)


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        kind = _BYTE_ORDER.get(content[:2], f"byte 0x{content[error.start]:02x} is not")
        told = f"{kind} UTF-8 text" if kind.startswith("byte") else f"this is {kind}, not UTF-8 text"
        raise UserError(f"{path}, line {line}: {told}. Save the file as UTF-8.") from error


def _syntax(path: Path, text: str, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        return f"{path}, line {line}: holds a control character (U+{error.character:04X}). Take it out."
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or "unreadable")
    if mark is None:
        return f"{path}: not valid YAML ({problem}). Mend the syntax."
    lines = text.splitlines()
    near = lines[mark.line] if mark.line < len(lines) else ""
    place = f"{path}, line {mark.line + 1}: not valid YAML"
    if "\t" in near[: max(len(near) - len(near.lstrip()), mark.column + 1)]:
        return f"{place}: a tab where only spaces may stand. Put spaces in its place."
    if near.count(": ") > 1 and "mapping values" in problem:
        return f"{place}: a second ': ' in the line. Put the value in quotes, or each key on a line of its own."
    return f"{place} ({problem}). Mend the syntax there."


def _check_keys(path: Path, root: yaml.Node) -> None:
    for node in _mappings(root):
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{path}, line {line}: a key must be a single word. Give 'key: value' lines.")
            if key.tag not in (_TEXT, _MERGE):
                raise UserError(
                    f"{path}, line {line}: YAML doesn't read the key '{key.value}' as text. Put it in quotes."
                )
            if key.value in seen:
                raise UserError(
                    f"{path}, line {line}: the key '{key.value}' stands in line {seen[key.value]} already. Keep one."
                )
            seen[key.value] = line


def _mappings(root: yaml.Node) -> Iterator[yaml.MappingNode]:
    waiting, known = [root], {id(root)}
    while waiting:
        node = waiting.pop(0)
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            yield node
            inner = [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            inner = list(node.value)
        for child in inner:
            if id(child) not in known:  # an alias stands in several places, or in itself
                known.add(id(child))
                waiting.append(child)


def _step(node: yaml.Node | None, key: Key) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == str(key):
                return name.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        entry: yaml.Node = node.value[key]
        return entry.start_mark.line + 1, entry
    return None
