"""The ``nc-medfl`` command."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nc_medfl import __version__
from nc_medfl.cli.console import console
from nc_medfl.cli.failures import one_line, told
from nc_medfl.errors import NcMedflError

_STOPPED = 130

#: In the order in which they are listed. Each is a function, or a Typer of its own, in the module of its name.
_VERBS = (
    "demo",
    "labels",
    "prepare",
    "partition",
    "check",
    "run",
    "export",
    "export-model",
    "stop",
    "evaluate",
    "predict",
    "explain",
    "report",
    "bench",
    "withdraw",
    "audit",
    "site",
)


class _Verbs(TyperGroup):
    """Imports a verb when it is asked for: what preparing needs takes longer to import than predicting takes."""

    def list_commands(self, _ctx: Any) -> list[str]:
        """Names of all verbs."""
        return list(_VERBS)

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        """The verb of this name; None where there is none."""
        if cmd_name not in _VERBS:
            return None
        module = cmd_name.replace("-", "_")
        verb = getattr(importlib.import_module(f"nc_medfl.cli.{module}"), module)
        if isinstance(verb, typer.Typer):
            return typer.main.get_command(verb)
        single = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
        single.command(cmd_name)(verb)
        return typer.main.get_command(single)


app = typer.Typer(
    name="nc-medfl",
    cls=_Verbs,
    help="One multi-label chest X-ray model across hospitals that see different diseases; no image leaves a site.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        typer.echo(f"nc_medfl {__version__}")
        raise typer.Exit
    if debug:
        os.environ["NC_MEDFL_DEBUG"] = "1"


def guarded(command: typer.Typer) -> None:
    """Run a command; errors meant for the user end in one line and their exit code.

    Exit codes: 0 success, 2 a user's mistake, 1 a run that failed or an error nobody foresaw, 130 stopped by the user.
    """
    # Ended by a scheduler or 'kill', a command stops what it started, as it does for Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        command()
    except NcMedflError as error:
        _tell(error)
        console.print(f"nc-medfl: {error}", markup=False)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:
        # Typer turns Ctrl-C into an exit of its own.
        if isinstance(end, SystemExit) and end.code != _STOPPED:
            raise
        console.print("nc-medfl: stopped.", markup=False)
        sys.exit(_STOPPED)
    except Exception as error:
        _tell(error)
        console.print(f"nc-medfl: {one_line(error)}", markup=False)
        sys.exit(1)


def _tell(error: BaseException) -> None:
    """Print the traceback, where that is asked for."""
    if os.environ.get("NC_MEDFL_DEBUG"):
        console.print(told(error, sys.argv[1:]), markup=False, end="")


def main() -> None:
    """Entry point of the ``nc-medfl`` script."""
    guarded(app)


if __name__ == "__main__":
    main()
