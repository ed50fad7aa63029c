"""The help of every command as a page, from the command line itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from reference_schemas import in_a_table

_START = """# Every command

Made from the commands themselves; `nc-medfl COMMAND --help` says the same. What all of them have, and exit codes:
[the command line](command-line.md).

These are options of all commands, or stand alone:

"""

#: What may stand before the command or behind it, and is told once.
_COMMON = frozenset({"--quiet", "--debug"})


def page() -> str:
    """The Markdown."""
    found = list(commands())
    return "\n".join([_START + _options(found[0].parent), *(_section(context) for context in found)])


def commands() -> Iterator[Any]:
    """A context for every command and sub-command, as ``nc-medfl`` lists them."""
    from nc_medfl.cli.main import app

    yield from _below(typer.Context(typer.main.get_command(app), info_name="nc-medfl"))


def _below(context: Any) -> Iterator[Any]:
    for name in context.command.list_commands(context):
        command = context.command.resolve_command(context, [name])[1]
        if command.hidden:
            continue
        below = typer.Context(command, info_name=name, parent=context)
        yield below
        if hasattr(command, "list_commands"):
            yield from _below(below)


def _section(context: Any) -> str:
    command = context.command
    depth = context.command_path.count(" ")
    title = context.command_path.removeprefix("nc-medfl ")
    lines = [f"{'#' * (depth + 1)} {title}", "", inspect.cleandoc(command.help or ""), ""]
    if hasattr(command, "list_commands"):
        return "\n".join(lines)
    usage = " ".join([context.command_path, *(piece.strip("{}") for piece in command.collect_usage_pieces(context))])
    return "\n".join([*lines, "```text", usage, "```", "", _options(context)])


def _options(context: Any) -> str:
    lines = ["| argument or option | meaning |", "|---|---|"]
    for parameter in context.command.params:
        if context.parent is not None and _COMMON.intersection(parameter.opts):
            continue
        record = parameter.get_help_record(context)
        if record is not None:
            signature, text = (" ".join(part.split()) for part in record)
            lines.append(f"| `{signature}` | {in_a_table(_escaped(text))} |")
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("[", "\\[")
