"""Settings that are names of something: of ours, or of a plug-in that is installed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from nc_medfl.plugins import Kind, names_with_plugins

METHODS = ("fednca", "fedavg", "fedprox", "fedbn", "scaffold", "moon", "fedetf", "fednh")
BACKBONES = ("small", "small32", "resnet18", "resnet50", "densenet121")


@dataclass(frozen=True)
class _Known:
    """Allows our own names, and those of plug-ins."""

    kind: Kind
    own: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": names_with_plugins(self.kind, self.own)}

    def _check(self, name: str) -> str:
        # Our own first: what is installed is looked for only where that is needed.
        if name not in self.own and name not in (names := names_with_plugins(self.kind, self.own)):
            expected = ", ".join(f"'{one}'" for one in names)
            raise PydanticCustomError("unknown_name", "must be one of {expected}", {"expected": expected})
        return name


MethodName = Annotated[str, _Known("methods", METHODS)]
BackboneName = Annotated[str, _Known("backbones", BACKBONES)]
