"""What the documentation shows: its pages, its blocks of code, and the command lines in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import typer

from tests_support import REPOSITORY

PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "jobs").rglob("*.md"),
        *(REPOSITORY / "benchmarks").rglob("*.md"),
    ]
)
_OPERATORS = frozenset("|&;<>")
_HEADING = re.compile(r"^(#{1,6}) +(.*?)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: relative to the repository.
        line: of its fence, from 1.
        language: what stands behind the fence.
        text: what it holds, less its indentation.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(REPOSITORY))


def blocks(*languages: str) -> list[Block]:
    """All fenced blocks of some languages, page by page."""
    return [block for page in PAGES for block in _blocks(page) if block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.strip().startswith("```"):
            continue
        if start is None:
            start = number
            continue
        indent = len(lines[start]) - len(lines[start].lstrip())
        body = "\n".join(text[indent:] for text in lines[start + 1 : number])
        yield Block(name_of(page), start + 1, lines[start].strip().removeprefix("```"), body + "\n")
        start = None
    assert start is None, f"{page}: a fence that isn't closed"


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Names that a link can have behind ``#``, as MkDocs and GitHub make them of headings."""
    found = [m[2] for line in prose(page).splitlines() if (m := _HEADING.match(line))]
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text.replace("`", "")).strip().lower()) for text in found}


def command_lines(text: str) -> list[list[str]]:
    """The words of each command in a block of shell: comments, pipes and redirections are left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="".join(_OPERATORS))
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        skipping = False
        for word in [*lexer, ";"]:
            if set(word) <= _OPERATORS:
                if words:
                    found.append(words)
                # What stands behind < or > is a file; behind | ; & another command.
                words, skipping = [], word[0] in "<>"
            elif not skipping:
                words.append(word)
    return found


def command_and_context(args: Sequence[str]) -> tuple[Any, Any, list[str]]:
    """The command that a line of ``nc-medfl`` asks for, the context around it, and what is left of the line."""
    from nc_medfl.cli.main import app

    command: Any = typer.main.get_command(app)
    context = typer.Context(command, info_name="nc-medfl")
    left = list(args)
    while hasattr(command, "list_commands"):
        while left and left[0].startswith("--"):
            known = [option for parameter in command.params for option in parameter.opts]
            assert left[0] in {*known, "--help"}, f"no such option: {left[0]}"
            if left.pop(0).endswith("-completion"):
                return command, context, []
        if not left:
            break
        _name, command, left = command.resolve_command(context, left)
    return command, context, left


def parse(args: Sequence[str]) -> dict[str, Any]:
    """Read a line of ``nc-medfl`` as it would, without doing anything.

    An ellipsis stands for what a reader has to fill in: nothing is missing then.

    Raises:
        Exception: naming what is wrong.
    """
    command, context, left = command_and_context(args)
    if not hasattr(command, "make_context") or hasattr(command, "list_commands") or "--help" in left:
        return {}
    shortened = [word for word in left if word != "..."]
    try:
        params: dict[str, Any] = command.make_context(command.name, shortened, parent=context).params
    except Exception as error:
        if "..." in left and type(error).__name__ == "MissingParameter":
            return {}
        raise
    return params


@lru_cache(maxsize=1)
def all_options() -> frozenset[str]:
    """Every option of every command."""
    from nc_medfl.cli.main import app

    found = {"--help"}
    todo: list[Any] = [typer.main.get_command(app)]
    context = typer.Context(todo[0], info_name="nc-medfl")
    while todo:
        command = todo.pop()
        found |= {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        }
        if hasattr(command, "list_commands"):
            todo += [command.resolve_command(context, [name])[1] for name in command.list_commands(context)]
    return frozenset(found)
