"""Reading what a site reports beside its parameters: losses and rows of metrics, as JSON text in the meta.

The text is a stranger's. It is read under limits of size and depth, and what comes out has known keys, known
findings and finite numbers, so that it can go into tables without another look.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nc_medfl.federation import keys
from nc_medfl.federation.refusal import RefusedUpdate

Row = dict[str, Any]

#: Of one text. The rows of 100 findings, 13 metrics and 20 groups are some 6 million characters.
MAX_CHARACTERS = 16_000_000
MAX_LOSSES = 64
_MAX_WORD = 64
_MAX_REASON = 300

OVERALL = ("macro", "micro")
VALIDATION_KEYS = ("split", "finding", "metric", "value", "n_positive", "n_annotated", "reason")
TEST_KEYS = (*VALIDATION_KEYS, "run", "model", "site", "group", "low", "high")
_NEEDED = {"split", "finding", "metric", "value"}
_NUMBERS = ("value", "low", "high")
_COUNTS = ("n_positive", "n_annotated")
#: Every metric lies in [0, 1], but these in [-1, 1] or anywhere.
_SIGNED, _FREE = ("mcc",), ("threshold",)
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SiteReport:
    """What a site says of a round, checked.

    Attributes:
        site: its name, as the server knows it.
        losses: means of the last local epoch by name; None for one that is not finite.
        rows: metrics of the model it was sent, on its validation split.
    """

    site: str
    losses: Mapping[str, float | None]
    rows: Sequence[Row]


def read_report(meta: Mapping[str, Any], findings: Collection[str], max_samples: int) -> SiteReport:
    """The report that comes with an update, or with the scoring of the last model.

    Raises:
        RefusedUpdate: if any of it is malformed.
    """
    return SiteReport(str(meta.get("client_name", "")), read_losses(meta), read_validation(meta, findings, max_samples))


def read_losses(meta: Mapping[str, Any]) -> dict[str, float | None]:
    """Training losses by name; none where the site sent none.

    Raises:
        RefusedUpdate: if they are not a short mapping of names to numbers.
    """
    content = parsed(meta.get(keys.LOSSES, "{}"), "training losses")
    if not isinstance(content, dict) or len(content) > MAX_LOSSES:
        raise RefusedUpdate("its training losses are not a short list of names and numbers")
    return {word(name, "training losses"): number(value, "training losses") for name, value in content.items()}


def read_validation(meta: Mapping[str, Any], findings: Collection[str], max_samples: int) -> list[Row]:
    """Rows of validation metrics, each finding and metric once.

    Args:
        meta: of the answer.
        findings: the vocabulary's; ``macro`` and ``micro`` may stand beside them.
        max_samples: no count may be more.

    Raises:
        RefusedUpdate: if they are malformed: a second macro row would give a site two votes on the round.
    """
    what = "validation metrics"
    rows = _rows(meta.get(keys.ROWS, "[]"), what, VALIDATION_KEYS, findings, max_samples)
    check_once(rows, ("finding", "metric"), what)
    if any(row.get("split") != "val" for row in rows):
        raise RefusedUpdate(f"its {what} are of another split")
    return rows


def read_test(meta: Mapping[str, Any], findings: Collection[str], max_samples: int) -> list[Row]:
    """Rows of final metrics, of the site itself and no other.

    Raises:
        RefusedUpdate: if they are malformed or speak for another site.
    """
    what = "test metrics"
    rows = _rows(meta.get(keys.ROWS), what, TEST_KEYS, findings, max_samples)
    check_once(rows, ("split", "group", "finding", "metric"), what)
    if any(row.get("site") != meta.get("client_name") for row in rows):
        raise RefusedUpdate(f"its {what} are of another site")
    return rows


def _rows(text: Any, what: str, known: Sequence[str], findings: Collection[str], max_samples: int) -> list[Row]:
    content = parsed(text, what)
    if not isinstance(content, list):
        raise RefusedUpdate(f"its {what} are not a list of rows")
    names = {*findings, *OVERALL}
    # Macro and micro count pairs of an image and a finding.
    most = max_samples * max(1, len(findings))
    return [_row(row, what, known, names, most) for row in content]


def _row(given: Any, what: str, known: Sequence[str], findings: Collection[str], most: int) -> Row:
    if not isinstance(given, dict) or not _NEEDED <= set(given) <= set(known):
        raise RefusedUpdate(f"its {what} have missing or unknown columns")
    if not isinstance(given["finding"], str) or given["finding"] not in findings:
        raise RefusedUpdate(f"its {what} name a finding that is not in the vocabulary")
    row: Row = {}
    for key, value in given.items():
        if key in _NUMBERS:
            row[key] = _metric(value, str(given.get("metric")), what)
        elif key in _COUNTS:
            row[key] = _count(value, most, what)
        elif key == "reason":
            row[key] = reason(value, what)
        else:
            row[key] = word(value, what)
    return row


def parsed(text: Any, what: str) -> Any:
    """JSON text of a site; :class:`RefusedUpdate` if it is none or too long."""
    if not isinstance(text, str):
        raise RefusedUpdate(f"its {what} are not text")
    if len(text) > MAX_CHARACTERS:
        raise RefusedUpdate(f"its {what} are longer than {MAX_CHARACTERS} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedUpdate(f"its {what} are not valid JSON") from error


def number(value: Any, what: str) -> float | None:
    """A number; None, a NaN and an infinity are undefined, which is None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedUpdate(f"its {what} hold something else than numbers")
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _metric(value: Any, metric: str, what: str) -> float | None:
    found = number(value, what)
    lowest = -1.0 if metric in _SIGNED else 0.0
    if found is not None and metric not in _FREE and not lowest - _ROUNDING <= found <= 1.0 + _ROUNDING:
        raise RefusedUpdate(f"its {what} lie outside of what a metric can be")
    return found


def _count(value: Any, most: int, what: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or value != int(value):
        raise RefusedUpdate(f"its {what} hold counts that can't be")
    return int(value)


def word(value: Any, what: str) -> str:
    """A short printable text."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_WORD or not value.isprintable():
        raise RefusedUpdate(f"its {what} hold something else than short names")
    return value


def reason(value: Any, what: str) -> str:
    """A line of text; empty for None."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _MAX_REASON or not value.isprintable():
        raise RefusedUpdate(f"its {what} give a reason that is no line of text")
    return value


def check_once(rows: Sequence[Row], columns: Sequence[str], what: str) -> None:
    """Refuse rows of which two agree in some columns."""
    found = [tuple(row.get(column) for column in columns) for row in rows]
    if len(set(found)) != len(found):
        raise RefusedUpdate(f"its {what} say something twice")
