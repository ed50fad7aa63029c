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


def partition(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The --out of 'nc-medfl prepare'.")],
    sites: Annotated[int, typer.Option(help="Number of sites.")],
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier partition there is replaced.")],
    alpha: Annotated[
        float, typer.Option(help="Dirichlet concentration of the findings: 0.1 is strong skew, 100 nearly none.")
    ] = 0.5,
    missing_classes: Annotated[int, typer.Option(help="Findings that each site has no positive of.")] = 0,
    quantity_alpha: Annotated[
        float | None, typer.Option(help="Dirichlet concentration of the site sizes; equal sizes without it.")
    ] = None,
    min_images: Annotated[int, typer.Option(help="Training images that each site gets at least.")] = 10,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Deal a prepared pool out to sites that see different diseases; patients are never split.

    Example: `nc-medfl partition nih/store --sites 4 --alpha 0.3 --missing-classes 2 --seed 0 --out nih/sites`
    """
    from nc_medfl.data.store import open_store
    from nc_medfl.partition import PartitionSettings, partition_store
    from nc_medfl.partition.tables import site_table

    settings = PartitionSettings(sites, alpha, missing_classes, seed, quantity_alpha, min_images)
    pool = open_store(store)
    with progress_bar("Writing sites") as progress:
        made = partition_store(pool, settings, out, progress)
    lines = [*_drawn(*site_table(made.description)), *_said(made.info), str(made.folder / "partition.png")]
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


def _said(info: dict[str, object]) -> list[str]:
    if not info["dropped"]:
        return []
    return [f"{info['dropped']} images dropped: the site that took their patient misses one of their findings."]
