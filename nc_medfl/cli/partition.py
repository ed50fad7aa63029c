"""``nc-medfl partition``: one pool plays several hospitals."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from nc_medfl.cli.console import emit, progress_bar
from nc_medfl.cli.options import AsJson


def partition(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The --out of 'nc-medfl prepare'.")],
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier partition there is replaced.")],
    sites: Annotated[int | None, typer.Option(help="Number of sites.")] = None,
    by: Annotated[
        str | None, typer.Option(help="A site for each value of this column of the manifest; nothing is drawn.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Dirichlet concentration of the findings: 0.1 is strong skew, 100 nearly none.")
    ] = 0.5,
    missing_classes: Annotated[int, typer.Option(help="Findings that each site has no positive of.")] = 0,
    quantity_alpha: Annotated[
        float | None, typer.Option(help="Dirichlet concentration of the site sizes; equal sizes without it.")
    ] = None,
    min_images: Annotated[int, typer.Option(help="Training images that each site gets at least.")] = 10,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Deal a prepared pool out to sites that see different diseases, or by a column; patients are never split.

    Example: `nc-medfl partition nih/store --sites 4 --alpha 0.3 --missing-classes 2 --seed 0 --out nih/sites`,
    or `nc-medfl partition nih/store --by view --out nih/views`
    """
    from nc_medfl.data.store import open_store
    from nc_medfl.errors import UserError
    from nc_medfl.partition import NaturalSettings, PartitionSettings, partition_store
    from nc_medfl.partition.tables import site_table

    settings: NaturalSettings | PartitionSettings
    if by is not None:
        if sites is not None or missing_classes or quantity_alpha is not None:
            raise UserError("--by: the column says the sites. Leave --sites and what is drawn for them out.")
        settings = NaturalSettings(by, min_images)
    elif sites is not None:
        settings = PartitionSettings(sites, alpha, missing_classes, seed, quantity_alpha, min_images)
    else:
        raise UserError("partition: into which sites? Give --sites NUMBER, or --by COLUMN.")
    pool = open_store(store)
    with progress_bar("Writing sites") as progress:
        made = partition_store(pool, settings, out, progress)
    lines = [*_drawn(*site_table(made.description)), *_said(made.info, by), str(made.folder / "partition.png")]
    emit({**made.info, "out": str(made.folder)}, [*lines, str(made.folder)], as_json)


def _drawn(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table as lines of text."""
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    paper = io.StringIO()
    Console(file=paper, width=200, color_system=None).print(table)
    return [line.rstrip() for line in paper.getvalue().splitlines() if line.strip()]


def _said(info: dict[str, object], by: str | None) -> list[str]:
    if not info["dropped"]:
        return []
    if by is not None:
        return [f"Images dropped: {info['dropped']}. Their patient has no value of '{by}'."]
    return [f"Images dropped: {info['dropped']}. The site that took their patient misses one of their findings."]
