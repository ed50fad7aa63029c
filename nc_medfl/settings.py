"""Settings read from YAML: a wrong key or value ends in a line that names file, line, key and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from nc_medfl.errors import UserError
from nc_medfl.mistakes import Place, explain
from nc_medfl.yaml_file import read_yaml_file


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values don't change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, content: Any) -> Any:
        # Python takes true for 1, and YAML takes yes for true: as text, it is told as what it is.
        if not isinstance(content, Mapping):
            return content
        return {
            key: str(value).lower() if isinstance(value, bool) and _numeric(cls, key) else value
            for key, value in content.items()
        }


def _numeric(model: type[BaseModel], key: str) -> bool:
    field = model.model_fields.get(key)
    allowed = {field.annotation, *get_args(field.annotation)} if field is not None else set()
    allowed |= {type(one) for one in allowed if isinstance(one, int)}  # of Literal[1, 3]
    return bool(allowed & {int, float}) and bool not in allowed


S = TypeVar("S", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a YAML mapping.

    Raises:
        UserError: as :func:`nc_medfl.yaml_file.read_yaml_file`.
    """
    return read_yaml_file(path).content


def parse(model: type[S], content: Mapping[str, Any], *, where: str | Place) -> S:
    """Check values against a settings model.

    Args:
        model: the settings class.
        content: nested values as read.
        where: they come from: what to name in an error.

    Raises:
        UserError: a line for each thing that is wrong, with the remedy.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        place = where if isinstance(where, Place) else Place(where)
        raise UserError(explain(model, error, content, place)) from error


def read_settings(model: type[S], path: Path) -> S:
    """Settings from a YAML file.

    Raises:
        UserError: as :func:`parse` and :func:`read_yaml`, naming the lines.
    """
    file = read_yaml_file(path)
    return parse(model, file.content, where=Place(str(path), file))
