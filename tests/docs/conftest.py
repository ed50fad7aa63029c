"""A folder in which the documentation's commands run."""

from __future__ import annotations

import pytest
from docs_support import blocks, command_lines
from docs_world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The folder in which the README's own five commands have begun: a store, sites, a run."""
    made = World(tmp_path_factory.mktemp("docs"))
    readme = [b for b in blocks("sh") if b.page == "README.md"]
    lines = [words[1:] for b in readme for words in command_lines(b.text) if words[0] == "nc-medfl"]
    for verb in ("prepare", "partition", "run"):
        made.run(next(words for words in lines if words[0] == verb))
    return made
