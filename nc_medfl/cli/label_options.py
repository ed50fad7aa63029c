"""Options about labels that ``prepare`` and ``labels`` share, and what a ``site.yaml`` adds to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

SourceOption = Annotated[
    str,
    typer.Option(
        help="dicom or folder (pictures), with any CSV; nih, chexpert, mimic, padchest, vindr, rsna, medmnist."
    ),
]
SiteConfigOption = Annotated[
    Path | None,
    typer.Option(help="A site.yaml: its name, store, label map (a file, or written there) and salt, unless given."),
]
MetadataOption = Annotated[
    Path | None, typer.Option(help="Second table: MIMIC-CXR's metadata, RSNA's detailed class info.")
]
LabelMapOption = Annotated[
    str | None, typer.Option(help="What the table's columns mean: a YAML file, or a name of 'nc-medfl labels'.")
]
VocabularyOption = Annotated[str, typer.Option(help="Vocabulary of findings (see 'nc-medfl labels').")]
ImageColumnOption = Annotated[str | None, typer.Option(help="Column that names the image.")]
ImageKeyOption = Annotated[
    str | None, typer.Option(help="What that column holds: filename, sop_instance_uid or accession.")
]
PatientColumnOption = Annotated[
    str | None, typer.Option(help="Column of the patient, used instead of the image's own PatientID.")
]
LabelColumnsOption = Annotated[
    list[str] | None,
    typer.Option(help="Columns that are findings, comma separated: COLUMN or COLUMN=FINDING; or the one that lists."),
]
IgnoreColumnOption = Annotated[list[str] | None, typer.Option(help="Column that is no finding (repeatable).")]
UncertainOption = Annotated[
    list[str] | None,
    typer.Option(help="Uncertain labels become ignore (unknown), zeros or ones; or FINDING=POLICY (repeatable)."),
]
BlankOption = Annotated[
    list[str] | None, typer.Option(help="Empty cells mean unknown or negative; or FINDING=POLICY (repeatable).")
]
AgreementOption = Annotated[
    str, typer.Option(help="A finding that several readers looked for is present by: majority, any or all of them.")
]


@dataclass(frozen=True)
class SiteSettings:
    """What a site says of itself: on the command line, else in its ``site.yaml``."""

    site: str
    out: Path | None
    label_map: Path | str | None
    salt_file: Path | None


def site_settings(
    path: Path | None, *, site: str | None, out: Path | None, label_map: str | None, salt_file: Path | None
) -> SiteSettings:
    """The command line's values, and the site config's where there is none.

    Raises:
        UserError: if the site config can't be used.
    """
    if path is None:
        return SiteSettings(site or "site", out, label_map, salt_file)
    from nc_medfl.config import load_site_config

    config = load_site_config(path)
    return SiteSettings(
        site or config.name,
        out or config.store,
        label_map or _map_of(config.label_map, path),
        salt_file or config.salt_file,
    )


def _map_of(named: Path | dict[str, Any] | None, site_config: Path) -> Path | str | None:
    """A site's label map: in a file, in the package, or in the site config itself."""
    from nc_medfl.labels import available_label_maps

    if isinstance(named, dict):
        return site_config
    if named is not None and not named.exists() and named.name in available_label_maps():
        return named.name
    return named


def column_list(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Column names, given one by one or with commas between them."""
    return tuple(name for text in texts or () for name in (part.strip() for part in text.split(",")) if name)
