"""``nc-medfl prepare``: from radiographs and a label table to a site's store."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from nc_medfl.cli.console import console, emit, progress_bar, warn
from nc_medfl.cli.explain_reading import explain_files
from nc_medfl.cli.label_options import (
    AgreementOption,
    BlankOption,
    IgnoreColumnOption,
    ImageColumnOption,
    ImageKeyOption,
    LabelColumnsOption,
    LabelMapOption,
    MetadataOption,
    PatientColumnOption,
    SiteConfigOption,
    SourceOption,
    UncertainOption,
    VocabularyOption,
    column_list,
    site_settings,
)
from nc_medfl.cli.pacs import ArchiveOptions, archive_images
from nc_medfl.data.memory import give_back
from nc_medfl.data.outputs import Outputs, write_outputs
from nc_medfl.data.prepare import PrepareSummary
from nc_medfl.data.prepare import prepare as run_prepare
from nc_medfl.data.settings import PrepareSettings, default_workers
from nc_medfl.errors import Stopped, UserError


def prepare(
    files: Annotated[list[str] | None, typer.Argument(help="With --explain: the files to explain.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Only say how each FILE is judged, and why.")] = False,
    source: SourceOption = "dicom",
    images: Annotated[Path | None, typer.Option(help="Folder with the images; subfolders are searched.")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV of labels (may be gzipped).")] = None,
    out: Annotated[Path | None, typer.Option(help="The store to write.")] = None,
    site: Annotated[str | None, typer.Option(help="Name of the site (default: site).")] = None,
    site_config: SiteConfigOption = None,
    metadata: MetadataOption = None,
    label_map: LabelMapOption = None,
    vocabulary: VocabularyOption = "nih14",
    image_column: ImageColumnOption = None,
    image_key: ImageKeyOption = None,
    patient_column: PatientColumnOption = None,
    label_columns: LabelColumnsOption = None,
    ignore_column: IgnoreColumnOption = None,
    size: Annotated[int, typer.Option(help="Side of the stored images in pixels.")] = 256,
    fractions: Annotated[str, typer.Option(help="Share of images in train, val, test.")] = "0.7,0.1,0.2",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    salt_file: Annotated[Path | None, typer.Option(help="Secret that keys patients; else OUT/site_private.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Reading processes (default: 2, or 1 on one core).")
    ] = None,
    uncertain: UncertainOption = None,
    blank: BlankOption = None,
    agreement: AgreementOption = "majority",
    engine: Annotated[
        str, typer.Option(help="processes (of this machine), or dask://HOST:PORT of a Dask scheduler.")
    ] = "processes",
    jpeg2000_reduce: Annotated[
        int, typer.Option("--jpeg2000-reduce", help="Leave out levels of JPEG 2000 for speed; 1 halves the sides.")
    ] = 0,
    write: Annotated[list[str] | None, typer.Option(help="Also write copies: png, nifti, dicom (repeatable).")] = None,
    review: Annotated[int, typer.Option(help="Make a page of this many images for review of burned-in text.")] = 0,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Show images on the quality page.")] = False,
    shift_dates: Annotated[
        bool, typer.Option("--shift-dates", help="Keep study dates, moved by a secret offset of each patient.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make a store that stands anew: other settings, or files that are gone.")
    ] = False,
    archive: Annotated[
        str | None, typer.Option("--from", help="Instead of --images: dicomweb://HOST:PORT/PATH (dicomwebs: TLS).")
    ] = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="With --from: CR, DX, RG unless given (repeatable).")
    ] = None,
    body_part: Annotated[list[str] | None, typer.Option(help="With --from: only these (repeatable).")] = None,
    from_date: Annotated[str | None, typer.Option(help="With --from: first study date, as 2020-01-31.")] = None,
    to_date: Annotated[str | None, typer.Option(help="With --from: last study date.")] = None,
    accessions: Annotated[Path | None, typer.Option(help="With --from: file of accession numbers, one a line.")] = None,
    requests: Annotated[int | None, typer.Option(help="With --from: most requests at once (default 4).")] = None,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="With --from: send credentials without TLS to another machine.")
    ] = False,
    keep_downloads: Annotated[
        bool, typer.Option("--keep-downloads", help="With --from: leave the fetched files in OUT/site_private.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Prepare a site's radiographs and labels for training, without identifiers. Run again to resume.

    Example: nc-medfl prepare --source dicom --images /archive/chest --labels labels.csv --out store

    Example: nc-medfl prepare --from dicomwebs://pacs:8443/dicom-web --labels labels.csv --out store

    Example: nc-medfl prepare --explain film1.dcm film2.dcm
    """
    if explain:
        explain_files(files or [], as_json)
        return
    if files:
        raise UserError(f"{files[0]}: a file by itself is explained with --explain; a folder is given with --images.")
    own = site_settings(site_config, site=site, out=out, label_map=label_map, salt_file=salt_file)
    out = own.out
    if source == "medmnist":
        # Images and labels are one file.
        labels = labels or images
    pacs = ArchiveOptions(
        address=archive,
        modality=modality or (),
        body_part=body_part or (),
        from_date=from_date,
        to_date=to_date,
        accessions=accessions,
        requests=requests,
        insecure_http=insecure_http,
        keep_downloads=keep_downloads,
    )
    images = pacs.images(images, out)
    if images is None or labels is None or out is None:
        lacking = next(
            name for name, given in (("--images", images), ("--labels", labels), ("--out", out)) if not given
        )
        raise UserError(f"{lacking}: is missing. Give --images, --labels and --out, or --explain FILE...")
    settings = PrepareSettings(
        source=source,
        images=images,
        labels=labels,
        out=out,
        site=own.site,
        metadata=metadata,
        label_map=own.label_map,
        vocabulary=vocabulary,
        image_column=image_column,
        image_key=image_key,
        patient_column=patient_column,
        label_columns=column_list(label_columns),
        ignore_columns=tuple(ignore_column or ()),
        uncertain=tuple(uncertain or ()),
        blank=tuple(blank or ()),
        agreement=agreement,
        size=size,
        fractions=_three_numbers(fractions),
        seed=seed,
        salt_file=own.salt_file,
        workers=default_workers() if workers is None else workers,
        engine=engine,
        jpeg2000_reduce=jpeg2000_reduce,
        shift_dates=shift_dates,
        replace=replace,
    )
    outputs = Outputs(tuple(write or ()), review, thumbnails, shift_dates, seed, own.salt_file)
    outputs.check(source)
    try:
        # Copies of the originals are made while those are at hand: files of an archive are dropped after.
        with archive_images(pacs, settings) as remarks:
            with progress_bar("Reading radiographs") as progress:
                summary = run_prepare(settings, progress)
            give_back()
            with progress_bar("Pages and copies") as progress:
                made = write_outputs(summary.store, outputs, progress)
    except KeyboardInterrupt:
        raise Stopped("stopped; what is done is kept. Give the same command again to go on.") from None
    summary = dataclasses.replace(summary, warnings=(*remarks, *summary.warnings))
    for note in summary.notes:
        console.print(f"note: {note}", markup=False)
    for warning in summary.warnings:
        warn(warning)
    emit({**_payload(summary), "made": [str(path) for path in made]}, _lines(summary, made), as_json)


def _three_numbers(text: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--fractions {text}: give three numbers that add up to 1, such as 0.7,0.1,0.2.") from error
    return train, val, test


def _payload(summary: PrepareSummary) -> dict[str, object]:
    return {
        **vars(summary),
        "store": str(summary.store),
        "warnings": list(summary.warnings),
        "notes": list(summary.notes),
    }


def _lines(summary: PrepareSummary, made: Sequence[Path]) -> list[str]:
    counts = ", ".join(f"{outcome} {count}" for outcome, count in summary.counts.items())
    splits = ", ".join(f"{split} {count}" for split, count in summary.splits.items())
    unchanged = ["Nothing has changed; the store stands as it was."] if summary.unchanged else []
    return [
        *unchanged,
        f"{summary.images} images of {summary.patients} patients: {splits}.",
        f"Files by outcome: {counts}.",
        "Pages and copies:",
        *map(str, made),
        "The store:",
        str(summary.store),
    ]
