"""MkDocs hook: reference pages that are made from the code when the site is built.

``reference_commands`` writes every command's help, ``reference_schemas`` the keys and columns of every file,
``reference_api`` which modules mkdocstrings shows, ``notebook_page`` the notebook as a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import notebook_page
import reference_api
import reference_commands
import reference_schemas
from mkdocs.structure.files import File, Files

#: Folder of ``docs`` to the section of the navigation that its pages go to where the navigation doesn't name them.
SECTIONS = {"how-to": "How to", "reference": "Reference", "explanation": "Explanation", "results": "Results"}


def generated() -> dict[str, str]:
    """Path below ``docs`` of each generated page, and its Markdown."""
    return {
        "reference/commands.md": reference_commands.page(),
        "reference/schemas.md": reference_schemas.page(),
        **reference_api.pages(),
    }


def on_config(config: Any) -> Any:
    """Put pages that the navigation doesn't name at the end of their folder's section; MkDocs calls this first."""
    sections = {name: pages for entry in config.nav if isinstance(entry, dict) for name, pages in entry.items()}
    named = set(_named(config.nav))
    docs = Path(config.docs_dir)
    for folder, section in SECTIONS.items():
        for page in sorted((docs / folder).glob("*.md")):
            name = page.relative_to(docs).as_posix()
            if name not in named:
                sections[section].append(name)
    return config


def on_files(files: Files, config: Any, **_more: Any) -> Files:
    """Add the generated pages; MkDocs calls this once it has found the written ones."""
    pages = generated()
    for path in Path(config.docs_dir).glob("notebooks/*.ipynb"):
        pages[f"notebooks/{path.stem}.md"] = notebook_page.page(path)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_content(html: str, **_more: Any) -> str:
    """Show what a docstring refers to (``:func:`name```) as code; MkDocs calls this with each page."""
    return re.sub(r":(?:class|func|mod|data|meth):<code>~?", "<code>", html)


def _named(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for value in nav.values():
            yield from _named(value)
    else:
        for value in nav:
            yield from _named(value)
