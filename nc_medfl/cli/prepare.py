"""``nc-medfl prepare``: from radiographs and a label table to a site's store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from nc_medfl.cli.console import console, emit, progress_bar
from nc_medfl.data.prepare import PrepareSummary
from nc_medfl.data.prepare import prepare as run_prepare
from nc_medfl.data.settings import PrepareSettings, default_workers
from nc_medfl.errors import UserError


def prepare(
    source: Annotated[str, typer.Option(help="nih: PNGs and Data_Entry CSV; dicom: a folder of DICOM and a CSV.")],
    images: Annotated[Path, typer.Option(help="Folder with the images; subfolders are searched.")],
    labels: Annotated[Path, typer.Option(help="CSV of labels (may be gzipped).")],
    out: Annotated[Path, typer.Option(help="The store to write.")],
    site: Annotated[str, typer.Option(help="Name of the site.")] = "site",
    label_map: Annotated[Path | None, typer.Option(help="YAML that says what the table's columns mean.")] = None,
    vocabulary: Annotated[str, typer.Option(help="Vocabulary of findings.")] = "nih14",
    image_column: Annotated[str | None, typer.Option(help="Column that names the image.")] = None,
    ignore_column: Annotated[list[str] | None, typer.Option(help="Column that is no finding (repeatable).")] = None,
    size: Annotated[int, typer.Option(help="Side of the stored images in pixels.")] = 256,
    fractions: Annotated[str, typer.Option(help="Share of images in train, val, test.")] = "0.7,0.1,0.2",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    salt_file: Annotated[Path | None, typer.Option(help="Secret that keys patients; else OUT/site_private.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Reading processes (default: 2, or 1 on one core).")
    ] = None,
    uncertain: Annotated[str | None, typer.Option(help="Uncertain labels become: ignore, zeros or ones.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Prepare a site's radiographs and labels for training, without identifiers. Run again to resume.

    Example: nc-medfl prepare --source dicom --images /archive/chest --labels labels.csv --out store
    """
    settings = PrepareSettings(
        source=cast("Literal['nih', 'dicom']", source),
        images=images,
        labels=labels,
        out=out,
        site=site,
        label_map=label_map,
        vocabulary=vocabulary,
        image_column=image_column,
        ignore_columns=tuple(ignore_column or ()),
        uncertain=cast("Literal['ignore', 'zeros', 'ones'] | None", uncertain),
        size=size,
        fractions=_three_numbers(fractions),
        seed=seed,
        salt_file=salt_file,
        workers=default_workers() if workers is None else workers,
    )
    try:
        with progress_bar("Reading radiographs") as progress:
            summary = run_prepare(settings, progress)
    except KeyboardInterrupt:
        console.print("nc-medfl: stopped; what is done is kept. Give the same command again to go on.", markup=False)
        raise
    for warning in summary.warnings:
        console.print(f"warning: {warning}", markup=False)
    emit(_payload(summary), _lines(summary), as_json)


def _three_numbers(text: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--fractions {text}: give three numbers that add up to 1, such as 0.7,0.1,0.2.") from error
    return train, val, test


def _payload(summary: PrepareSummary) -> dict[str, object]:
    return {**vars(summary), "store": str(summary.store), "warnings": list(summary.warnings)}


def _lines(summary: PrepareSummary) -> list[str]:
    counts = ", ".join(f"{outcome} {count}" for outcome, count in summary.counts.items())
    splits = ", ".join(f"{split} {count}" for split, count in summary.splits.items())
    return [
        f"{summary.images} images of {summary.patients} patients: {splits}.",
        f"Files by outcome: {counts}.",
        "The store:",
        str(summary.store),
    ]
