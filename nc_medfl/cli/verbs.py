"""The verbs of ``nc-medfl``: listed without being imported, and what all of them have in common."""

from __future__ import annotations

import importlib
import os
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Verb(NamedTuple):
    """A verb in the list of all.

    Attributes:
        group: the heading it stands under.
        about: what it does, in so few words that it fits in a line.
    """

    group: str
    about: str


_DATA, _FEDERATION, _RESULTS, _SETTINGS = "Prepare data", "Federate", "Use and measure a model", "Settings"

#: Each is a function, or a Typer of its own, in the module of its name.
VERBS = {
    "demo": Verb("Begin", "The whole way, on synthetic hospitals."),
    "init": Verb("Begin", "Write jobs and site settings to start from into a folder."),
    "labels": Verb(_DATA, "List vocabularies and label maps, or preview a label table."),
    "prepare": Verb(_DATA, "Turn radiographs and labels into a de-identified store."),
    "partition": Verb(_DATA, "Deal one store out to several sites."),
    "withdraw": Verb(_DATA, "Take a patient or an image out of stores for good."),
    "site": Verb(_FEDERATION, "Write a hospital's own settings into its startup kit."),
    "check": Verb(_FEDERATION, "Check whether this site is ready for a federation."),
    "run": Verb(_FEDERATION, "Run a job: simulator, POC or between hospitals."),
    "stop": Verb(_FEDERATION, "Stop a POC that was left running."),
    "export": Verb(_FEDERATION, "Write a job for FLARE's own console."),
    "audit": Verb(_FEDERATION, "Print a site's audit trail, and check it."),
    "evaluate": Verb(_RESULTS, "Measure a model at every site, and over all patients."),
    "report": Verb(_RESULTS, "Write the report of a run, or compare two."),
    "predict": Verb(_RESULTS, "Say how probable each finding is in radiographs."),
    "explain": Verb(_RESULTS, "Show where the model looked in radiographs."),
    "export-model": Verb(_RESULTS, "Write a model for other programs."),
    "bench": Verb(_RESULTS, "Compare methods on the same data, sites and seeds."),
    "config": Verb(_SETTINGS, "Show a job's settings and where they come from; schemas."),
}


class Verbs(TyperGroup):
    """Imports a verb when it is asked for: what some need takes longer to import than others take."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: TyperCommand(name, help=verb.about) for name, verb in VERBS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb itself, in the place of its name in the list."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in VERBS else command, rest

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """The list, under its headings."""
        for group in dict.fromkeys(verb.group for verb in VERBS.values()):
            with formatter.section(group):
                formatter.write_dl([(name, verb.about) for name, verb in VERBS.items() if verb.group == group])


def load(name: str) -> Any:
    """Import a verb and make its command."""
    module = name.replace("-", "_")
    verb = getattr(importlib.import_module(f"nc_medfl.cli.{module}"), module)
    if isinstance(verb, typer.Typer):
        return with_common_options(verb)
    single = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    single.command(name)(verb)
    return with_common_options(single)


def with_common_options(app: typer.Typer) -> Any:
    """The command of an app, and with it each command below it, with the options that all have."""
    command = typer.main.get_command(app)
    for one in getattr(command, "commands", {"": command}).values():
        one.params += typer.main.get_command(_common).params
    return command


def _quiet(value: bool) -> bool:
    if value:
        from nc_medfl.cli.console import be_quiet

        be_quiet()
    return value


def _debug(value: bool) -> bool:
    if value:
        os.environ["NC_MEDFL_DEBUG"] = "1"
    return value


#: A command that has nothing but what all have.
_common = typer.Typer(add_completion=False)


@_common.command()
def _options(
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", is_eager=True, expose_value=False, callback=_quiet, help="No progress, no remarks."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", is_eager=True, expose_value=False, callback=_debug, help="Show an error's traceback."),
    ] = False,
) -> None:
    """What every command has."""
