"""A table of the page: what a cell shows, how it sorts, the footnote that says why it is empty, and its CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np

_NUMBER = re.compile(r"[-+]?[0-9.]+(?:e[-+]?[0-9]+)?")

UNDEFINED = "–"

#: With fewer patients with or without a finding than this an interval is rough.
ROUGH_BELOW = 50
NO_INTERVAL = "no interval: too few patients with or without the finding to resample"
ROUGH = f"rough interval: fewer than {ROUGH_BELOW} patients with or without the finding"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what it shows.
        sort: what it sorts by, a number as text; empty sorts last.
        extra: a second, quieter text, such as an interval.
        mark: the mark of its footnote.
        title: the footnote's text.
        shade: 0 to 1, the strength of its colour; None for none.
    """

    text: str
    sort: str = ""
    extra: str = ""
    mark: str = ""
    title: str = ""
    shade: float | None = None


@dataclass
class Table:
    """A table with a caption, a header for each column and for each row, and footnotes.

    Attributes:
        name: for ids.
        caption: one line.
        headers: of the columns, that of the row headers first.
        rows: cells, the row's header first.
        notes: footnotes, by text; the mark is their place.
    """

    name: str
    caption: str
    headers: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def mark(self, text: str) -> str:
        """The mark of a footnote, which is added where it is new."""
        return self.notes.setdefault(text, str(len(self.notes) + 1)) if text else ""

    def counted(self, value: float, minimum: int = 1) -> Cell:
        """A whole number, or that it is withheld where it is NaN."""
        return count(value) if value == value else self.undefined(small(minimum))

    @property
    def csv(self) -> str:
        """The table as CSV: intervals in columns of their own, and why a cell is empty in the last one."""
        wide = [any(row[k].extra for row in self.rows if k < len(row)) for k in range(len(self.headers))]
        titles = [[name, f"{name}: interval"] if wide[k] else [name] for k, name in enumerate(self.headers)]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([_harmless(text) for text in (*(t for pair in titles for t in pair), "notes")])
        for row in self.rows:
            values = [[_value(cell), cell.extra] if wide[k] else [_value(cell)] for k, cell in enumerate(row)]
            notes = [f"{self.headers[k]}: {cell.title}" for k, cell in enumerate(row) if cell.title]
            writer.writerow([_harmless(text) for text in (*(v for pair in values for v in pair), "; ".join(notes))])
        return stream.getvalue()

    @property
    def is_text(self) -> list[bool]:
        """Whether a column holds words, which stand on the left."""
        return [
            k == 0 or (bool(self.rows) and not any(row[k].sort or row[k].mark for row in self.rows if k < len(row)))
            for k in range(len(self.headers))
        ]

    @property
    def csv_address(self) -> str:
        """The CSV as an address that needs no other file."""
        return csv_address(self.csv)

    def undefined(self, reason: str) -> Cell:
        """An empty cell and its reason."""
        reason = reason or "not measured"
        return Cell(UNDEFINED, mark=self.mark(reason), title=reason)

    def number(
        self, row: dict[str, Any] | None, *, digits: int = 3, interval: bool = False, shade: bool = False
    ) -> Cell:
        """A cell of a row of the metrics.

        Args:
            row: of ``metrics.csv``; None where it has none.
            digits: after the point.
            interval: whether its interval stands beside it.
            shade: whether to colour it, from 0.5 (none) to 1.
        """
        if row is None or np.isnan(row["value"]):
            return self.undefined(row["reason"] if row else "")
        value = float(row["value"])
        extra, note = _interval(row, digits) if interval else ("", "")
        tone = float(np.clip((value - 0.5) * 2, 0, 1)) if shade else None
        return Cell(decimal(value, digits), f"{value:.6g}", extra, self.mark(note), note, tone)


def small(minimum: int) -> str:
    """Why a count is not shown."""
    return f"withheld: fewer than {minimum} images, or it would give such a count away"


def csv_address(text: str) -> str:
    """A text as a ``data:`` address."""
    return "data:text/csv;charset=utf-8," + quote(text, safe=",.:;()/-_")


def _value(cell: Cell) -> str:
    if cell.mark and cell.text == UNDEFINED:
        return ""
    return cell.sort or cell.text


def _harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    if text[:1] in "=+@\t\r-" and text[:1] and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def decimal(value: float, digits: int = 3) -> str:
    """A number with a fixed count of digits and a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def count(value: float) -> Cell:
    """A cell of a whole number."""
    return Cell(f"{int(value):,}", str(int(value)))


def _interval(row: dict[str, Any], digits: int) -> tuple[str, str]:
    """The interval of a row as text, and a remark about it."""
    if np.isnan(row["low"]):
        parts = [part for part in str(row["reason"]).split("; ") if part.startswith("no interval")]
        return "", NO_INTERVAL if parts else ""
    text = f"{decimal(row['low'], digits)}–{decimal(row['high'], digits)}"
    return text, ROUGH if is_rough(row) else ""


def is_rough(row: dict[str, Any]) -> bool:
    """Whether too few patients with or without a finding stand behind a row of the metrics."""
    few = min(row["n_positive"], row["n_annotated"] - row["n_positive"]) < ROUGH_BELOW
    return bool(few or "rough interval" in str(row["reason"]))
