"""``nc-medfl config``: a job's settings and where they come from, and the schemas of the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from nc_medfl.cli.console import emit
from nc_medfl.cli.options import AsJson, Overrides
from nc_medfl.errors import UserError, writing

config = typer.Typer(
    name="config",
    help="Settings: what a job has and where it comes from, and schemas for editors.\n\n"
    "Example: `nc-medfl config show jobs/fednca_cxr --changed`",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)


@config.callback()
def _config() -> None:
    """Settings: what a job has and where it comes from, and schemas for editors."""


@config.command("show")
def show(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="A job folder, such as jobs/fednca_cxr, or its job.yaml.")],
    overrides: Overrides = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the default.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every setting of a job as it would run, and where each comes from.

    From the package (default), its method (default of ...), a line of the job's file, --set, or the published settings
    (paper_compat).

    Example: `nc-medfl config show jobs/fednca_cxr --set loss.margin=0.2`
    """
    from nc_medfl.cli.tables import drawn
    from nc_medfl.origins import origins

    path = job / "job.yaml" if job.is_dir() else job
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give a job's folder, such as jobs/fednca_cxr, or its job.yaml.")
    settings, found = origins(path, overrides or [])
    found = [one for one in found if one.value != one.default or not changed]
    rows = [
        [one.setting, _text(one.value), one.place, "" if one.value == one.default else _text(one.default)]
        for one in found
    ]
    payload = {
        "job": str(path),
        "settings": settings.model_dump(mode="json"),
        "origins": {one.setting: one.as_json() for one in found},
    }
    lines = drawn(["setting", "value", "from", "default"], rows) if rows else ["Nothing differs from the default."]
    emit(payload, lines, as_json)


@config.command("schema")
def schema(
    file: Annotated[
        Literal["job", "site", "matrix"], typer.Argument(help="Of job.yaml, site.yaml or a matrix of 'bench'.")
    ] = "job",
    out: Annotated[Path | None, typer.Option(help="File to write, instead of printing it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The schema is JSON either way.")] = False,
) -> None:
    """Print the JSON Schema of a file, by which an editor completes and checks keys.

    In VS Code with the YAML extension, and others with yaml-language-server: write it to a file, and begin the job's
    file with `# yaml-language-server: $schema=job.schema.json`.

    Example: `nc-medfl config schema job --out job.schema.json`
    """
    from nc_medfl.schemas import json_schema

    if file == "job":
        from nc_medfl.config import JobSettings

        made = json_schema(JobSettings, "A job of nc_medfl (job.yaml)")
    elif file == "site":
        from nc_medfl.config import SiteConfig

        made = json_schema(SiteConfig, "A site of nc_medfl (site.yaml)")
    else:
        from nc_medfl.benchmark.matrix import Matrix

        made = json_schema(Matrix, "A matrix of nc-medfl bench")
    if out is None:
        emit(made, [json.dumps(made, indent=2)], as_json)
        return
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: no folder {out.parent}. Make it, or give another file.")
    with writing(out, "Give --out another file."):
        out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    emit({"schema": str(out)}, [str(out)], as_json)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
