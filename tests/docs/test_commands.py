"""Every command that the documentation shows is one: its verbs, options, values and settings exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from docs_support import PAGES, Block, all_options, blocks, command_and_context, command_lines, name_of, parse, prose

from nc_medfl.federation.jobs import read_job
from tests_support import REPOSITORY

SHELL = blocks("sh")
BENCHMARK_OPTIONS = {
    option
    for script in (REPOSITORY / "benchmarks").rglob("*.py")
    for option in re.findall(r"add_argument\(\s*\"(--[\w-]+)", script.read_text(encoding="utf-8"))
}
#: Pages that name what the example extension brings, which is not installed here.
PLUG_IN_PAGES = ("docs/how-to/extend.md", "docs/examples/")
#: Options of other programs that the text speaks of.
FOREIGN_OPTIONS = {
    "--force": "nvflare provision",
    "--nthreads": "dask worker",
    **dict.fromkeys(("--platform", "--python-version", "--only-binary"), "pip"),
    **dict.fromkeys(("--build-arg", "--userns"), "podman"),
}


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_the_command_line_takes_every_command_of_a_block(block: Block) -> None:
    for words in command_lines(block.text):
        if words[0] == "nc-medfl":
            try:
                given = parse(words[1:])
            except Exception as error:
                raise AssertionError(f"{' '.join(words)}: {error}") from error
            # A plug-in's names are known where it is installed.
            job = REPOSITORY / str(given.get("job") or "none")
            if job.is_dir() and not block.page.startswith(PLUG_IN_PAGES):
                read_job(job, [value for value in given.get("overrides") or () if "FILE" not in value])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_that_the_text_names_exists(page: Path) -> None:
    known = all_options() | set(FOREIGN_OPTIONS) | BENCHMARK_OPTIONS
    for code in re.findall(r"`([^`]+)`", prose(page)):
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
            assert option in known, f"`{code}`: no command has {option}"
        if re.match(r"nc-medfl [a-z]", code):
            verb = shlex.split(code.replace("'", ""))[1:]
            command_and_context([word for word in verb if not word.startswith("-")][:1])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_stand_in_blocks_of_shell(page: Path) -> None:
    """So that the tests see them: in no block without a language, nor by indentation."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^ {4,}nc-medfl ", prose(page), re.MULTILINE)
    assert not [str(b) for b in blocks("", "bash", "shell", "console") if b.page == name_of(page)]
    assert "```sh" in text or not re.search(r"^nc-medfl ", text, re.MULTILINE)


def test_the_words_of_a_line_are_found() -> None:
    assert command_lines("A=1 x | y --z 'a b' > f; w  # no\nv \\\n  u") == [
        ["A=1", "x"],
        ["y", "--z", "a b"],
        ["w"],
        ["v", "u"],
    ]


def test_a_wrong_command_is_seen() -> None:
    for wrong in (["partition", "x", "--out", "y", "--alfa", "1"], ["prepair"], ["partition"], ["--dbug", "demo"]):
        with pytest.raises((Exception, AssertionError)):
            parse(wrong)
