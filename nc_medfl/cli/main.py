"""The ``nc-medfl`` command."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Annotated, Any

import typer

from nc_medfl import __version__
from nc_medfl.cli.verbs import Verbs
from nc_medfl.errors import NcMedflError, UserError

_FAILED, _MISTAKE, _STOPPED = 1, 2, 130
#: What the library for options says of a value, and how the rest of this package would say it.
_WORDS = (
    ("Value error, ", ""),
    ("Input should be a valid integer, unable to parse string as an integer", "expected a whole number"),
    ("Input should be a valid number, unable to parse string as a number", "expected a number"),
    ("Input should", "must"),
)

app = typer.Typer(
    name="nc-medfl",
    cls=Verbs,
    help="One multi-label chest X-ray model across hospitals that see different diseases; no image leaves a site.",
    epilog="Begin with 'nc-medfl demo'. 'nc-medfl COMMAND --help' has an example of each. "
    "Exit codes: 0 done, 1 failed, 2 a mistake in what was given, 130 stopped.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help takes longer to import than this takes to print
)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        typer.echo(f"nc_medfl {__version__}")
        raise typer.Exit
    if quiet:
        from nc_medfl.cli.console import be_quiet

        be_quiet()
    if debug:
        os.environ["NC_MEDFL_DEBUG"] = "1"
    if context.invoked_subcommand is None:
        raise UserError("no command is given. See 'nc-medfl --help'.")


def guarded(command: Any) -> None:
    """Run a command; what goes wrong ends in a line that says it, and an exit code.

    Exit codes: 0 success, 2 a user's mistake, 1 a run that failed or an error nobody foresaw, 130 stopped by the user.
    """
    # Ended by a scheduler or 'kill', a command stops what it started, as it does for Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        # A name in letters that the terminal lacks is no reason to fail.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = command(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _STOPPED
    except Exception as error:
        if os.environ.get("NC_MEDFL_DEBUG"):
            from nc_medfl.cli.failures import told

            typer.echo(told(error, sys.argv[1:]), err=True, nl=False)
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            typer.echo(str(error), err=True)
            sys.exit(_MISTAKE)
        code, lines = _ending(error)
        for line in lines:
            typer.echo(f"nc-medfl: {line}", err=True)
        sys.exit(code)
    if code == _STOPPED:
        typer.echo("nc-medfl: stopped.", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _ending(error: Exception) -> tuple[int, list[str]]:
    """The exit code of an error, and what to say of it."""
    if isinstance(error, NcMedflError):
        return error.exit_code, str(error).splitlines()
    if isinstance(error, typer.TyperException):
        said, context = error.format_message(), getattr(error, "ctx", None)
        said = " ".join(said.split())
        for theirs, ours in _WORDS:
            said = said.replace(theirs, ours)
        said += "" if said.endswith((".", "?")) else "."
        return _MISTAKE, [said + (f" See '{context.command_path} --help'." if context else "")]
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return _FAILED, ["no space left on the disk. Free some and give the same command again, a run with --resume."]
    if isinstance(error, MemoryError):
        return _FAILED, ["out of memory. Take smaller batches or images, or fewer workers."]
    from nc_medfl.cli.failures import one_line

    return _FAILED, [one_line(error)]


def main() -> None:
    """Entry point of the ``nc-medfl`` script."""
    guarded(app)


if __name__ == "__main__":
    main()
