"""Every link of the README, the docs and the jobs leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from docs_support import PAGES, anchors, name_of, prose

#: Pages that the site has and the repository hasn't: made from the code when it is built (``docs/hooks``).
GENERATED = re.compile(r"docs/reference/(commands|schemas|api/\w+)\.md$")
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        parts = urlsplit(target)
        if parts.scheme or target.startswith("//"):
            # There may be no network here, so only their form is checked.
            assert parts.scheme in ("https", "mailto"), f"{target}: not https"
            assert parts.scheme == "mailto" or "." in parts.netloc, f"{target}: no host"
            continue
        there = (page.parent / parts.path).resolve() if parts.path else page
        if not GENERATED.search(there.as_posix()):
            assert there.exists(), f"{target}: leads nowhere"
            if parts.fragment and there.suffix == ".md":
                assert parts.fragment in anchors(there), f"{target}: no such heading"


def test_every_page_is_reached_from_another() -> None:
    docs = [page for page in PAGES if name_of(page).startswith("docs/") and page.name != "index.md"]
    linked = {
        (page.parent / urlsplit(target).path).resolve() for page in PAGES for target in _LINK.findall(prose(page))
    }
    assert [name_of(page) for page in docs if page not in linked] == []
