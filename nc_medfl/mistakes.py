"""What is told of settings that can't be used: key, file and line, what is wrong, and the nearest right one."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from nc_medfl.yaml_file import Key, YamlFile

_EXPECTED = {
    "int_parsing": "expected a whole number (integer)",
    "int_type": "expected a whole number (integer)",
    "int_from_float": "expected a whole number (integer)",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "path_type": "expected a path",
    "dict_type": "expected 'key: value' lines below it",
    "model_type": "expected 'key: value' lines below it",
    "model_attributes_type": "expected 'key: value' lines below it",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "finite_number": "expected a finite number",
}
_TEXTS, _LISTS = ("string_type", "path_type"), ("tuple_type", "list_type")


@dataclass(frozen=True)
class Place:
    """Where settings come from.

    Attributes:
        name: what to call it in a message: a file, or the option they came from.
        file: the file, where there is one, to tell the line.
        below: the keys of the file that the settings stand below; several where they are laid on each other.
    """

    name: str
    file: YamlFile | None = None
    below: tuple[tuple[Key, ...], ...] = ((),)

    def line(self, location: Sequence[Key]) -> int | None:
        """The line of a key."""
        if self.file is None:
            return None
        roots = [root for root in self.below if self.file.holds((*root, *location))]
        return self.file.line((*(roots or self.below)[0], *location))


def explain(model: type[BaseModel], error: ValidationError, content: Mapping[str, Any], place: Place) -> str:
    """One line for each thing that is wrong, in the order of the file.

    Args:
        model: what the settings should have been.
        error: as pydantic has it.
        content: the settings.
        place: where they come from.
    """
    told: dict[tuple[Key, ...], tuple[float, str]] = {}
    # An unknown key is likelier the cause of what is missing than the other way round.
    found = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    places = [_written(one["loc"], content, missing=one["type"] == "missing") for one in found]
    for one, location in zip(found, places, strict=True):
        # Where a text or more can stand, what is wrong inside says it better.
        inside = any(len(other) > len(location) and other[: len(location)] == location for other in places)
        if location in told or (one["type"] in _TEXTS and inside):
            continue
        line = place.line(location)
        where = place.name + (f", line {line}" if line else "")
        told[location] = (line or float("inf"), f"{where}: {_told(model, one, location, content)}")
    return "\n".join(text for _, text in sorted(told.values(), key=lambda item: item[0]))


def nearest(given: str, known: Sequence[str], cutoff: float = 0.5) -> str | None:
    """The known name that was probably meant.

    Example:
        >>> nearest("Batch-Size", ["batch_size", "seed"])
        'batch_size'
        >>> nearest("learning_rate", ["lr", "eps"])
        'lr'
    """
    plain = {_plain(name): name for name in known}
    wanted = _plain(given)
    initials = "".join(word[:1] for word in wanted.split("_"))
    if wanted in plain or (len(initials) > 1 and initials in plain):
        return plain.get(wanted) or plain[initials]
    near = difflib.get_close_matches(wanted, list(plain), n=1, cutoff=cutoff)
    return plain[near[0]] if near else None


def unknown_value(given: Any, known: Sequence[str]) -> str:
    """What is told of a name that is none of those there are."""
    near = nearest(str(given), known) if isinstance(given, str) else None
    hint = f"Did you mean '{near}'?" if near else "Use one of them."
    return f"{_shown(given)} is none of {', '.join(known)}. {hint}"


def unknown_key(model: type[BaseModel], location: Sequence[Key], content: Mapping[str, Any]) -> str:
    """What is told of a key that doesn't exist: the one that was probably meant, here or elsewhere."""
    dotted, key = _dotted(location), str(location[-1])
    beside = _keys(_models_at(model, location[:-1], content))
    everywhere = {path: path.rsplit(".", 1)[-1] for path in setting_names(model)}
    same = [path for path, last in everywhere.items() if last == _plain(key)]
    near = nearest(key, beside, cutoff=0.8)
    if near is None and same:
        names = " or ".join(f"'{path}'" for path in same[:3])
        return f"unknown key '{dotted}'. Did you mean {names}?"
    near = near or nearest(key, beside)
    if near:
        return f"unknown key '{dotted}'. Did you mean '{_dotted((*location[:-1], near))}'?"
    return f"unknown key '{dotted}'. Known here: {', '.join(beside)}."


def setting_names(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """The names of all settings of a model, with dots where they stand below another."""
    for key, field in model.model_fields.items():
        yield above + key
        for inner in _models(field.annotation):
            yield from setting_names(inner, f"{above}{key}.")


def _told(model: type[BaseModel], one: Any, location: tuple[Key, ...], content: Mapping[str, Any]) -> str:
    kind, given, dotted = one["type"], one["input"], _dotted(location)
    about = f"{dotted}: " if dotted else ""
    if kind == "extra_forbidden":
        return unknown_key(model, location, content)
    if kind == "missing":
        return f"the key '{dotted}' is missing. Add it."
    if kind.startswith("union_tag"):
        return _told_of_kind(one, dotted)
    if kind in ("literal_error", "unknown_name"):
        return about + unknown_value(given, _names(one["ctx"]["expected"]))
    message = _EXPECTED.get(kind) or str(one["msg"]).removeprefix("Value error, ")
    if message.endswith((".", "?")):  # says the remedy itself
        return about + message
    for pydantics, ours in (("Input should be", "must be"), ("String should match pattern", "must match the pattern")):
        message = message.replace(pydantics, ours)
    if kind in _TEXTS and isinstance(given, str | int | float):
        message += "; put it in quotes"
    if kind in _LISTS and isinstance(given, str | int | float):
        message += f", such as [{given}]"
    told = "" if kind == "value_error" and isinstance(given, Mapping) else f" (given: {_shown(given)})"
    return f"{about}{message}{told}. Mend the value."


def _told_of_kind(one: Any, dotted: str) -> str:
    """Of settings that come in several kinds, without one, or with one that there is not."""
    context = one["ctx"]
    key = f"{dotted}.{str(context['discriminator']).strip(chr(39))}"
    if "tag" not in context:
        return f"the key '{key}' is missing. Add it."
    return f"{key}: {unknown_value(context['tag'], _names(context['expected_tags']))}"


def _names(expected: str) -> list[str]:
    """The names in pydantic's list of them."""
    return re.findall(r"'([^']*)'", expected) or re.findall(r"[^,\s]+", expected.replace(" or ", ", "))


def _shown(value: Any) -> str:
    """A value as YAML has it, cut where it is long."""
    text = (
        {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else repr(value)
    )
    return text if len(text) <= 60 else text[:57] + "..."


def _dotted(location: Sequence[Key]) -> str:
    return ".".join(map(str, location))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _written(location: Sequence[Key], content: Any, *, missing: bool) -> tuple[Key, ...]:
    """The part of pydantic's location that a person wrote, without the names it has for alternatives."""
    out: list[Key] = []
    here = content
    for number, key in enumerate(location):
        try:
            here = here[key]
        except (KeyError, IndexError, TypeError):
            if not (missing and number == len(location) - 1):
                continue
        out.append(key)
    return tuple(out)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings that an annotation allows directly."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated):
        for part in get_args(annotation):
            yield from _models(part)


def _inside(annotation: Any) -> Iterator[Any]:
    """What an annotation's entries are, if it is one of a list or a mapping by name."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType, Annotated):
        for part in parts:
            yield from _inside(part)
    elif origin in (dict, Mapping, tuple, list) and parts:
        yield from (part for part in parts[-1 if origin in (dict, Mapping) else 0 :] if part is not Ellipsis)


def _models_at(model: type[BaseModel], location: Sequence[Key], content: Any) -> list[type[BaseModel]]:
    annotations: list[Any] = [model]
    here = content
    for key in location:
        fields = [found.model_fields for a in annotations for found in _models(a)]
        named = [field[str(key)].annotation for field in fields if str(key) in field]
        annotations = named or [part for a in annotations for part in _inside(a)]
        here = here[key] if isinstance(here, Mapping) and key in here else None
    found = [one for a in annotations for one in _models(a)]
    kind = here.get("kind") if isinstance(here, Mapping) else None
    return [one for one in found if kind in _kinds(one)] or found


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _keys(models: Sequence[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(key for model in models for key in model.model_fields))
