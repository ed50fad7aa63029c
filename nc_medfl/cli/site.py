"""``nc-medfl site init``: make a startup kit ready for nc_medfl's jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nc_medfl.cli.console import emit, note
from nc_medfl.cli.options import AsJson
from nc_medfl.errors import Stopped, UserError

if TYPE_CHECKING:
    from nc_medfl.federation.kit import Kit

site = typer.Typer(
    name="site",
    help="A hospital's own settings in its FLARE startup kit.\n\n"
    "Example: `nc-medfl site init kits/st_mary --store store`",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)

CustomCode = Literal["forbid", "keep"]
#: What a script must say; there is no default that would be right for every hospital.
_NEEDED = ("store", "min_positives")


@site.callback()
def _site() -> None:
    """A hospital's own settings in its FLARE startup kit."""


@site.command("init")
def site_init(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The startup kit: the folder with 'startup' and 'local'.")],
    store: Annotated[Path | None, typer.Option(help="The store that 'nc-medfl prepare' wrote.")] = None,
    min_positives: Annotated[
        int | None,
        typer.Option(min=0, help="Withhold statistics of findings with fewer positives than this; 0: none."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N (default: auto).")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads for training (default: all).")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images a batch (default: the job's).")] = None,
    label_map: Annotated[Path | None, typer.Option(help="The site's label map, if it has a file of its own.")] = None,
    salt_file: Annotated[Path | None, typer.Option(help="The salt, if it is kept apart from the store.")] = None,
    custom_code: Annotated[
        CustomCode | None,
        typer.Option(
            help="Jobs that bring code of their own: forbid them, or keep the kit's policy (default: forbid)."
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a site.yaml that is there already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a hospital's settings into its startup kit, and let nc_medfl's jobs run there.

    Asks for what isn't given; asks nothing if --store and --min-positives are given or nobody is at the terminal.
    A server's kit gets no settings, but lets the jobs run and keeps them in a folder of its own.

    Example: `nc-medfl site init kits/st_mary --store /data/store --min-positives 5`
    """
    from nc_medfl.federation.kit import open_kit
    from nc_medfl.federation.site_setup import carry_out, plan_server, plan_site, site_config

    opened = open_kit(kit)
    answers: dict[str, Any] = {
        "store": store,
        "min_positives": min_positives,
        "device": device,
        "threads": threads,
        "batch_size": batch_size,
        "label_map": label_map,
        "salt_file": salt_file,
    }
    asked = False
    if opened.role == "client":
        asked = _interview(opened, answers, custom_code)
        forbid = answers.pop("custom_code", custom_code) != "keep"
        least = {"min_positives": answers.pop("min_positives")}
        config = site_config(opened, {**answers, "privacy": least})
        changes = plan_site(opened, config, forbid_custom_code=forbid, replace=replace)
    else:
        _no_site(opened, answers, custom_code)
        changes = plan_server(opened)
    for change in changes:
        note(f"{'would write' if dry_run else 'writing'} {change.path}: {change.what}")
    if asked and changes and not dry_run and not typer.confirm("Write this?", default=True, err=True):
        raise Stopped(f"{kit}: nothing was written.")
    if not dry_run:
        carry_out(changes)
    written = [str(change.path) for change in changes]
    payload = {"kit": str(kit), "name": opened.name, "role": opened.role, "files": written, "written": not dry_run}
    lines = written or [f"{kit}: nothing to do, all is as wanted."]
    emit(payload, ["nothing was written."] if dry_run else [*lines, f"next: nc-medfl check --kit {kit}"], as_json)


def _no_site(kit: Kit, answers: dict[str, Any], custom_code: CustomCode | None) -> None:
    if kit.role == "admin":
        raise UserError(
            f"{kit.folder}: an administrator's kit, which has no settings. Give a hospital's or the server's."
        )
    given = [name for name, value in {**answers, "custom_code": custom_code}.items() if value is not None]
    if given:
        raise UserError(f"{kit.folder}: a server's kit has no data; leave out {_flag(given[0])}.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _interview(kit: Kit, answers: dict[str, Any], custom_code: CustomCode | None) -> bool:
    """Fill in what wasn't given, by asking; True if anything was asked.

    Raises:
        UserError: if something needed is missing and nobody is there to ask.
    """
    missing = [name for name in _NEEDED if answers[name] is None]
    if not missing:
        return False
    if not sys.stdin.isatty():
        raise UserError(f"{kit.folder}: {_flag(missing[0])} is missing, and nobody is there to ask. Give it.")
    note(f"{kit.name} in the federation {kit.project}. Empty answers take what stands in brackets.")
    for name, text, default, read in _QUESTIONS:
        if answers[name] is None:
            answers[name] = _ask(text, default, read)
    if custom_code is None:
        forbid = typer.confirm("Refuse jobs that bring code of their own? (nc_medfl's don't)", default=True, err=True)
        answers["custom_code"] = "forbid" if forbid else "keep"
    return True


def _ask(text: str, default: str | None, read: Callable[[str], Any]) -> Any:
    """One question, asked again until the answer can be used."""

    def checked(answer: str) -> Any:
        try:
            return read(answer)
        except UserError as error:
            raise typer.BadParameter(str(error)) from error

    return typer.prompt(text, default=default, value_proc=checked, err=True)


def _store(answer: str) -> str:
    from nc_medfl.data.store import open_store

    open_store(Path(answer).expanduser())
    return answer


def _number(least: int) -> Callable[[str], int | None]:
    def read(answer: str) -> int | None:
        if answer.strip() in {"", "all", "the job's"}:
            return None
        if not answer.strip().isdecimal() or int(answer) < least:
            raise UserError(f"a whole number of {least} or more is wanted")
        return int(answer)

    return read


def _device(answer: str) -> str:
    from nc_medfl.config import SiteConfig
    from nc_medfl.settings import parse

    return parse(SiteConfig, {"name": "x", "store": "x", "device": answer.strip()}, where="device").device


_QUESTIONS: tuple[tuple[str, str, str | None, Callable[[str], Any]], ...] = (
    ("store", "Store (the --out of 'nc-medfl prepare')", None, _store),
    ("min_positives", "Withhold statistics of findings with fewer positives than", "5", _number(0)),
    ("device", "Device (auto, cpu, cuda or cuda:N)", "auto", _device),
    ("threads", "CPU threads for training", "all", _number(1)),
    ("batch_size", "Images a batch", "the job's", _number(2)),
)
