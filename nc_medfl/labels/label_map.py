"""How one source's label table is to be read: a versioned map, checked before use."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nc_medfl.errors import UserError
from nc_medfl.labels.vocabulary import NO_FINDING, Vocabulary

Uncertain = Literal["ignore", "zeros", "ones"]
Blank = Literal["unknown", "negative"]
ImageKey = Literal["filename", "sop_instance_uid", "accession"]
Fact = Literal["view", "sex", "age", "spacing", "rows"]

#: The policy of findings that have none of their own.
DEFAULT = "default"
UNCERTAIN: tuple[Uncertain, ...] = ("ignore", "zeros", "ones")
BLANK: tuple[Blank, ...] = ("unknown", "negative")


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


def _lists(value: Any) -> Any:
    """A mapping to one name or several, as a mapping to several."""
    if not isinstance(value, dict):
        return value
    return {
        str(key): [str(part) for part in item] if isinstance(item, (list, tuple)) else [str(item)]
        for key, item in value.items()
    }


def _by_finding(value: Any) -> Any:
    """One policy for all findings, as a mapping."""
    return {DEFAULT: value} if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
Names = Annotated[dict[str, str], BeforeValidator(_texts)]
ManyNames = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_lists)]


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
    """One column that lists the findings present; what it doesn't list is absent.

    Attributes:
        column: the column.
        separator: between two names.
        names: name in the table to the finding or findings it means.
        normal: the name that says nothing was found.
        unstated: names that leave what is not listed unknown, such as ``unchanged``.
        others: names that stand neither here nor in the map's ``left_out``: an error, or left out too.
    """

    column: str
    separator: str = Field(default="|", min_length=1)
    names: ManyNames = {}
    normal: str | None = NO_FINDING
    unstated: Texts = ()
    others: Literal["refuse", "leave_out"] = "refuse"


class LabelMap(_Strict):
    """How a label table is read.

    Attributes:
        name: a short name; ``version`` counts its changes.
        source: which publication or table it was written for.
        vocabulary: name of the vocabulary it maps to.
        image_column: column that says which image a row is about, by ``image_key``: a file name (a path
            relative to the images folder, or the bare name, with or without extension), an SOP Instance UID, or
            an accession number (whose row is about every image of the examination).
        patient_column: column with the patient's identifier, where it is not taken from the image.
        findings: source column to finding, for a table with a column a finding.
        one_of: source column to several findings it doesn't tell apart: absent means that all are absent,
            present leaves each of them unknown.
        delimited: instead of ``findings``, one column that lists what is present.
        left_out: source column or listed name to the reason why no finding is made of it.
        optional: columns that may be missing; their findings are unknown then.
        beside_no_finding: findings, or names left out, that the source allows beside ``No Finding``.
        values: which texts mean what.
        uncertain: what becomes of an uncertain label: unknown, 0 or 1; one for all, or by finding (``default``
            for the others).
        blank: what an empty cell means, in the same forms.
        facts: columns with view, sex and age, of pictures without a header; ``spacing`` (mm) with the ``rows``
            it holds for. Of several columns the first that the table has.
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
    one_of: ManyNames = {}
    delimited: Delimited | None = None
    left_out: Names = {}
    optional: Texts = ()
    beside_no_finding: Texts = ()
    values: Values = Values()
    uncertain: Annotated[dict[str, Uncertain], BeforeValidator(_by_finding)] = {DEFAULT: "ignore"}
    blank: Annotated[dict[str, Blank], BeforeValidator(_by_finding)] = {DEFAULT: "unknown"}
    facts: Annotated[dict[Fact, tuple[str, ...]], BeforeValidator(_lists)] = {}
    ignore_columns: Texts = ()

    @model_validator(mode="after")
    def _one_kind_of_table(self) -> LabelMap:
        if bool(self.findings) == (self.delimited is not None):
            raise ValueError("give either 'findings' or 'delimited'")
        if self.one_of and self.delimited is not None:
            raise ValueError("'one_of' goes with 'findings'; list several under 'delimited: names' instead")
        return self

    def sources(self) -> dict[str, tuple[str, ...]]:
        """Source column or listed name to the findings it tells of, without ``No Finding``."""
        if self.delimited is not None:
            named: Mapping[str, tuple[str, ...]] = self.delimited.names
        else:
            named = {**{column: (finding,) for column, finding in (self.findings or {}).items()}, **self.one_of}
        told = {name: tuple(f for f in findings if f != NO_FINDING) for name, findings in named.items()}
        return {name: findings for name, findings in told.items() if findings}

    def targets(self) -> list[str]:
        """Findings of the vocabulary that the map names, without ``No Finding``."""
        return list(dict.fromkeys(finding for findings in self.sources().values() for finding in findings))

    def with_policies(self, uncertain: Sequence[str], blank: Sequence[str]) -> LabelMap:
        """The map with policies from the command line put over its own.

        Args:
            uncertain: ``zeros`` for all findings, or ``Edema=ones`` for one.
            blank: the same, with ``unknown`` and ``negative``.

        Raises:
            UserError: for a policy that there isn't.
        """
        changes = {
            "uncertain": _overridden(self.uncertain, uncertain, UNCERTAIN, "--uncertain"),
            "blank": _overridden(self.blank, blank, BLANK, "--blank"),
        }
        return self.model_copy(update=changes)


def policies_of(texts: Sequence[str], known: Sequence[str], option: str) -> dict[str, str]:
    """Policies as the command line gives them, by finding.

    Raises:
        UserError: for a policy that there isn't.
    """
    found: dict[str, str] = {}
    for text in texts:
        finding, mark, policy = text.rpartition("=")
        if policy.strip() not in known or (mark and not finding.strip()):
            listed = f"{', '.join(known[:-1])} and {known[-1]}"
            raise UserError(
                f"{option} {text}: there are {listed}. Give one for all findings, or FINDING=POLICY for one of them."
            )
        found[finding.strip() or DEFAULT] = policy.strip()
    return found


def uncertain_policy(label_map: LabelMap, finding: str) -> Uncertain:
    """What becomes of an uncertain label of a finding."""
    return label_map.uncertain.get(finding, label_map.uncertain.get(DEFAULT, "ignore"))


def blank_policy(label_map: LabelMap, finding: str) -> Blank:
    """What an empty cell says of a finding."""
    return label_map.blank.get(finding, label_map.blank.get(DEFAULT, "unknown"))


def _overridden(
    own: Mapping[str, str], texts: Sequence[str], known: Sequence[str], option: str
) -> Mapping[str, Uncertain | Blank]:
    given = policies_of(texts, known, option)
    # One policy for all is meant for all: it takes the map's own exceptions back.
    kept = {} if DEFAULT in given else own
    return cast("Mapping[str, Uncertain | Blank]", {**kept, **given})


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
    for key, policies in (("uncertain", label_map.uncertain), ("blank", label_map.blank)):
        strangers = [name for name in policies if name not in (*vocabulary.findings, DEFAULT)]
        if strangers:
            raise UserError(
                f"{where}: '{key}' speaks of what is not in vocabulary '{vocabulary.name}': "
                f"{suggest(strangers, vocabulary.findings)}. Name one of its findings, or '{DEFAULT}'."
            )


def suggest(wrong: Sequence[str], known: Sequence[str]) -> str:
    """Wrong names in a line, each with the nearest known one."""
    out = []
    for name in wrong:
        near = nearest(name, known)
        out.append(f"'{name}' (did you mean '{near}'?)" if near else f"'{name}'")
    return ", ".join(out)


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name most like one, empty where none is much like it."""
    by_folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold()[:80], list(by_folded), n=1, cutoff=0.6)
    return by_folded[near[0]] if near else ""
