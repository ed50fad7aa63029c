"""The ``nc-medfl`` command."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from nc_medfl import __version__
from nc_medfl.cli.audit import audit
from nc_medfl.cli.bench import bench
from nc_medfl.cli.check import check
from nc_medfl.cli.console import console
from nc_medfl.cli.demo import demo
from nc_medfl.cli.evaluate import evaluate
from nc_medfl.cli.export import export
from nc_medfl.cli.labels import labels
from nc_medfl.cli.partition import partition
from nc_medfl.cli.prepare import prepare
from nc_medfl.cli.report import report
from nc_medfl.cli.run import run
from nc_medfl.cli.site import site
from nc_medfl.cli.stop import stop
from nc_medfl.cli.withdraw import withdraw
from nc_medfl.errors import NcMedflError

_STOPPED = 130

app = typer.Typer(
    name="nc-medfl",
    help="One multi-label chest X-ray model across hospitals that see different diseases; no image leaves a site.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for _verb in (demo, labels, prepare, partition, check, run, export, stop, evaluate, report, bench, withdraw, audit):
    app.command()(_verb)
app.add_typer(site)


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

    Exit codes: 0 success, 2 a user's mistake, 1 a run that failed, 130 stopped by the user.
    """
    # Ended by a scheduler or 'kill', a command stops what it started, as it does for Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        command()
    except NcMedflError as error:
        if os.environ.get("NC_MEDFL_DEBUG"):
            raise
        console.print(f"nc-medfl: {error}", markup=False)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:
        # Typer turns Ctrl-C into an exit of its own.
        if isinstance(end, SystemExit) and end.code != _STOPPED:
            raise
        console.print("nc-medfl: stopped.", markup=False)
        sys.exit(_STOPPED)


def main() -> None:
    """Entry point of the ``nc-medfl`` script."""
    guarded(app)


if __name__ == "__main__":
    main()
