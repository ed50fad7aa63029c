"""The reference that is made from the code says what the code does."""

from __future__ import annotations

import json
import re

import file_glossary
import pytest
import reference_api
import reference_commands
import reference_schemas
from docs_support import all_options
from docs_world import World

import nc_medfl
from nc_medfl.config import JobSettings
from tests_support import REPOSITORY


def test_every_command_and_option_has_a_line() -> None:
    page = reference_commands.page()
    titles = re.findall(r"^#{2,3} (.+)$", page, re.MULTILINE)
    assert {context.command_path.removeprefix("nc-medfl ") for context in reference_commands.commands()} == set(titles)
    assert {"prepare", "run", "site init"} <= set(titles)
    for option in all_options() - {"--help", "--show-completion", "--install-completion"}:
        assert option in page, option


def test_every_setting_of_a_job_has_a_line_with_its_meaning() -> None:
    page = reference_schemas.page()
    section = page.split("## job.yaml", 1)[1].split("\n## ", 1)[0]
    rows = dict(re.findall(r"^\| `([\w.]+)` \|.*\| ([^|]*) \|$", section, re.MULTILINE))
    for key, value in JobSettings().model_dump().items():
        for name in [f"{key}.{below}" for below in value] if isinstance(value, dict) else [key]:
            assert rows[name].strip(), name


@pytest.mark.parametrize(
    ("place", "told"), [("runs/fednca/run.json", file_glossary.RUN), ("store/prepare.json", file_glossary.PREPARE)]
)
def test_the_keys_told_of_a_file_are_those_in_a_real_one(place: str, told: dict[str, str], world: World) -> None:
    found = set(json.loads((world.folder / place).read_text(encoding="utf-8")))
    assert found - set(told) == set()
    assert set(told) - found <= {"job_id"}  # not in the simulator


def test_the_tables_of_a_run_have_the_columns_that_are_told(world: World) -> None:
    seen = 0
    for name, (_about, columns) in reference_schemas.tables().items():
        path = world.folder / "runs" / "fednca" / name
        if path.is_file():
            assert path.read_text(encoding="utf-8").splitlines()[0].split(",") == list(columns), name
            seen += 1
    assert seen >= 8


def test_every_package_has_a_page_of_its_api() -> None:
    home = REPOSITORY / "nc_medfl"
    assert nc_medfl.__name__ == "nc_medfl"
    packages = {path.parent.name for path in home.glob("*/__init__.py")} - {"cli"}
    assert packages == set(reference_api.PACKAGES)
    nav = (REPOSITORY / ".mkdocs.yml").read_text(encoding="utf-8")
    for page in reference_api.pages():
        assert f"- {page}" in nav, page
