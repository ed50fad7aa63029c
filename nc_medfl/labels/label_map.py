"""How one source's label table is to be read: a versioned YAML file, checked before use."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nc_medfl.errors import UserError
from nc_medfl.labels.vocabulary import NO_FINDING, Vocabulary

Uncertain = Literal["ignore", "zeros", "ones"]
Blank = Literal["unknown", "negative"]
ImageKey = Literal["filename", "sop_instance_uid"]


def canonical(value: object) -> str:
    """A table's value for comparison: stripped, case folded, numbers in one form (``1.0`` is ``1``), NaN empty."""
    text = str(value).strip().casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    if math.isnan(number):
        return ""
    return str(int(number)) if number.is_integer() else repr(number)


def _texts(value: Any) -> Any:
    """YAML scalars as text: people write 1 and yes where the table holds text."""
    if isinstance(value, dict):
        return {str(key): str(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
Names = Annotated[dict[str, str], BeforeValidator(_texts)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Values(_Strict):
    """Which texts of a finding's column mean what; compared by :func:`canonical`."""

    positive: Texts = ("1",)
    negative: Texts = ("0",)
    uncertain: Texts = ("-1",)
    unknown: Texts = ()

    @model_validator(mode="after")
    def _no_value_twice(self) -> Values:
        seen: dict[str, str] = {}
        for state in ("positive", "negative", "uncertain", "unknown"):
            for value in {canonical(text) for text in getattr(self, state)}:
                if value in seen:
                    raise ValueError(f"'{value}' is both {seen[value]} and {state}")
                seen[value] = state
        return self

    def state_of(self) -> dict[str, str]:
        """Canonical value to ``positive``, ``negative``, ``uncertain`` or ``unknown``."""
        states = ("positive", "negative", "uncertain", "unknown")
        return {canonical(text): state for state in states for text in getattr(self, state)}


class Delimited(_Strict):
    """One column that lists the findings present; what it doesn't list is absent."""

    column: str
    separator: str = Field(default="|", min_length=1)
    names: Names = {}
    normal: str | None = NO_FINDING


class LabelMap(_Strict):
    """How a label table is read.

    Attributes:
        name: a short name; ``version`` counts its changes.
        vocabulary: name of the vocabulary it maps to.
        image_column: column that says which image a row is about, by ``image_key``: a file name (a path
            relative to the images folder, or the bare name, with or without extension) or an SOP Instance UID.
        patient_column: column with the patient's identifier, where it is not taken from the image.
        findings: source column to finding, for a table with a column a finding.
        delimited: instead of ``findings``, one column that lists what is present.
        values: which texts mean what.
        uncertain: what becomes of an uncertain label: unknown, 0 or 1.
        blank: what an empty cell means.
        ignore_columns: columns left out knowingly.
    """

    name: str
    version: int = Field(default=1, ge=1)
    source: str = ""
    vocabulary: str
    image_column: str
    image_key: ImageKey = "filename"
    patient_column: str | None = None
    findings: Names | None = None
    delimited: Delimited | None = None
    values: Values = Values()
    uncertain: Uncertain = "ignore"
    blank: Blank = "unknown"
    ignore_columns: Texts = ()

    @model_validator(mode="after")
    def _one_kind_of_table(self) -> LabelMap:
        if bool(self.findings) == (self.delimited is not None):
            raise ValueError("give either 'findings' or 'delimited'")
        return self

    def targets(self) -> list[str]:
        """Findings of the vocabulary that the map names, without ``No Finding``."""
        names = (self.findings or {}).values() if self.delimited is None else self.delimited.names.values()
        return [name for name in dict.fromkeys(names) if name != NO_FINDING]


def available_label_maps() -> list[str]:
    """Names of the label maps that come with the package."""
    return sorted(p.stem for p in _folder().glob("*.yaml"))


def load_label_map(name_or_path: str | Path) -> LabelMap:
    """Read a label map by its name in the package, or from a file.

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
    try:
        return LabelMap.model_validate(content)
    except ValidationError as error:
        raise UserError(_explain(error, path, text)) from error


def check_vocabulary(label_map: LabelMap, vocabulary: Vocabulary, where: str) -> None:
    """Make sure that a map speaks of this vocabulary's findings only.

    Raises:
        UserError: listing what it names besides, with the nearest names.
    """
    if label_map.vocabulary != vocabulary.name:
        raise UserError(
            f"{where}: maps to vocabulary '{label_map.vocabulary}', but '{vocabulary.name}' was asked for. "
            "Change one of the two."
        )
    wrong = [name for name in label_map.targets() if name not in vocabulary.findings]
    if wrong:
        raise UserError(
            f"{where}: not in vocabulary '{vocabulary.name}': {suggest(wrong, vocabulary.findings)}. "
            f"Map to one of: {', '.join((*vocabulary.findings, NO_FINDING))}."
        )


def suggest(wrong: Sequence[str], known: Sequence[str]) -> str:
    """Wrong names in a line, each with the nearest known one."""
    by_folded = {name.casefold(): name for name in known}
    out = []
    for name in wrong:
        near = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
        out.append(f"'{name}' (did you mean '{by_folded[near[0]]}'?)" if near else f"'{name}'")
    return ", ".join(out)


class _TextLoader(yaml.SafeLoader):
    """YAML in which yes, no, on and off are text: they are values of label tables."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _folder() -> Path:
    return Path(str(resources.files("nc_medfl.labels"))) / "maps"


def _explain(error: ValidationError, path: Path, text: str) -> str:
    first = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
    location = [str(part) for part in first["loc"]]
    place = f"{path}{_line_of(text, location)}"
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
    node = yaml.compose(text, Loader=_TextLoader)
    line = 0
    for key in location:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((k, v) for k, v in pairs if k.value == key), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f", line {line}" if line else ""
