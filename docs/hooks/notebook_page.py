"""A notebook as a page of Markdown: its text, and its code as blocks."""

from __future__ import annotations

import json
from pathlib import Path


def page(path: Path) -> str:
    """The Markdown of a notebook; outputs aren't kept in the repository, so none are shown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join(parts) + "\n"
