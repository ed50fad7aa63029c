"""Tables as lines of text, for any width of terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def drawn(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text; columns of numbers stand to the right."""
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(header):
        numeric = all(row[number].isdigit() or not row[number] for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        # Cells come from a table's own header and values: not markup.
        table.add_row(*(Text(" ".join(cell.split())) for cell in row))
    paper = io.StringIO()
    # Wide enough for any cell: what does not fit would be cut off.
    Console(file=paper, width=100_000, color_system=None).print(table)
    return [line.rstrip() for line in paper.getvalue().splitlines() if line.strip()]
