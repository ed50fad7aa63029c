"""What the README and the docs show is there, and runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from tests_support import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "jobs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_readmes_python_runs_as_it_stands() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        exec(block, names)
        assert float(names["parts"].total) > 0  # type: ignore[attr-defined]


def test_every_verb_the_readme_shows_is_there() -> None:
    from nc_medfl.cli.main import app

    group = typer.main.get_group(app)
    verbs = set(group.list_commands(typer.Context(group)))
    shown = set(re.findall(r"nc-medfl ([a-z][a-z-]+)", (REPOSITORY / "README.md").read_text(encoding="utf-8")))
    assert shown
    assert shown <= verbs


def test_the_doctests_of_public_modules_hold() -> None:
    import doctest
    import importlib
    import pkgutil

    import nc_medfl

    tried = 0
    for module in pkgutil.walk_packages(nc_medfl.__path__, "nc_medfl."):
        if not module.name.endswith("simulator_process"):
            result = doctest.testmod(importlib.import_module(module.name))
            assert result.failed == 0, module.name
            tried += result.attempted
    assert tried > 0
