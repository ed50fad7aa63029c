"""``nc-medfl labels``: the vocabularies and label maps that there are, and what a map does to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from nc_medfl.cli.console import emit
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
from nc_medfl.cli.options import AsJson
from nc_medfl.cli.tables import drawn
from nc_medfl.errors import UserError

#: Columns that are named for a person.
_MOST_TOLD = 30


def labels(
    table: Annotated[Path | None, typer.Argument(metavar="[TABLE]", help="A label table, to be tried.")] = None,
    show: Annotated[str | None, typer.Option(metavar="MAP", help="Print a label map.")] = None,
    source: SourceOption = "dicom",
    site_config: SiteConfigOption = None,
    metadata: MetadataOption = None,
    label_map: LabelMapOption = None,
    vocabulary: VocabularyOption = "nih14",
    image_column: ImageColumnOption = None,
    image_key: ImageKeyOption = None,
    patient_column: PatientColumnOption = None,
    label_columns: LabelColumnsOption = None,
    ignore_column: IgnoreColumnOption = None,
    uncertain: UncertainOption = None,
    blank: BlankOption = None,
    agreement: AgreementOption = "majority",
    as_json: AsJson = False,
) -> None:
    """List vocabularies and label maps; print a map; or show what a map does to a table. Nothing is written.

    Example: `nc-medfl labels`

    Example: `nc-medfl labels --show padchest`

    Example: `nc-medfl labels train.csv --source chexpert --vocabulary chexpert13 --uncertain Edema=ones`
    """
    if show is not None:
        if table is not None:
            raise UserError("--show: prints a map and tries no table. Leave one of the two out.")
        _show(show, as_json)
        return
    if table is None:
        _list(as_json)
        return
    from nc_medfl.data.sources import LabelChoices, preview_labels
    from nc_medfl.data.sources.choices import Agreement
    from nc_medfl.labels import load_vocabulary
    from nc_medfl.labels.infer import Named
    from nc_medfl.labels.label_map import ImageKey

    choices = LabelChoices(
        source=source,
        table=table,
        metadata=metadata,
        vocabulary=vocabulary,
        label_map=site_settings(site_config, site=None, out=None, label_map=label_map, salt_file=None).label_map,
        named=Named(
            image=image_column,
            patient=patient_column,
            labels=column_list(label_columns),
            ignore=tuple(ignore_column or ()),
            key=cast("ImageKey | None", image_key),
        ),
        uncertain=tuple(uncertain or ()),
        blank=tuple(blank or ()),
        agreement=cast("Agreement", agreement),
    )
    found = preview_labels(choices, load_vocabulary(vocabulary)).to_json()
    emit(found, _told(found, table.name), as_json)


def _list(as_json: bool) -> None:
    from nc_medfl.data.sources import get_source, source_names
    from nc_medfl.labels import available_label_maps, available_vocabularies, load_label_map, load_vocabulary

    vocabularies = [load_vocabulary(name) for name in available_vocabularies()]
    maps = [load_label_map(name) for name in available_label_maps()]
    sources = [(name, get_source(name)) for name in source_names()]
    payload = {
        "vocabularies": [{"name": v.name, "findings": list(v.findings)} for v in vocabularies],
        "maps": [
            {"name": m.name, "version": m.version, "vocabulary": m.vocabulary, "source": m.source.strip()} for m in maps
        ],
        "sources": [{"name": name, "about": source.about} for name, source in sources],
    }
    lines = ["Vocabularies (--vocabulary)"]
    lines += [f"  {v.name}: {', '.join(v.findings)}" for v in vocabularies]
    lines += ["", "Label maps (--label-map, or chosen by --source and --vocabulary)"]
    lines += drawn(
        ["map", "to", "version", "written for"], [[m.name, m.vocabulary, str(m.version), m.source] for m in maps]
    )
    lines += ["", "Sources (--source)"]
    lines += [f"  {name}: {source.about}" for name, source in sources]
    emit(payload, lines, as_json)


def _show(name: str, as_json: bool) -> None:
    from nc_medfl.labels import available_label_maps, label_map_path, load_label_map

    content = load_label_map(name)
    path = label_map_path(name) if name in available_label_maps() else Path(name)
    emit(content.model_dump(mode="json"), path.read_text(encoding="utf-8").splitlines(), as_json)


def _told(found: dict[str, Any], table: str) -> list[str]:
    """A preview, for a person."""
    header = ["finding", "", "from", "1", "0", "uncertain", "blank", "unknown", "conflict"]
    counted = ("positive", "negative", "uncertain", "blank", "unknown", "conflict")
    rows = [
        [f["finding"], f["how"], ", ".join(f["sources"]), *(str(f[name]) for name in counted)]
        for f in found["findings"]
    ]
    normal = found["no_finding"]
    rows.append(
        [
            "No Finding",
            "made consistent",
            "",
            *(str(normal[n]) for n in counted[:2]),
            "",
            "",
            str(normal["unknown"]),
            "",
        ]
    )
    lines = [
        f"{table}: {found['rows']} rows about {found['images']} images, read by {found['label_map']} "
        f"to {found['vocabulary']}.",
        *drawn(header, rows),
        *_policies(found),
    ]
    if found["left_out"]:
        lines += [
            "",
            "Left out:",
            *drawn(["name", "images", "why"], [[n, str(c), why] for n, why, c in found["left_out"]]),
        ]
    if found["unmapped_columns"]:
        lines += ["", f"Not read: {_some(found['unmapped_columns'])}."]
    if found["unmapped_values"]:
        lines += ["", "Values that the map doesn't know; 'prepare' will refuse them:"]
        shown = [[c, v or "(not shown: may be a name)", str(n)] for c, v, n in found["unmapped_values"]]
        lines += drawn(["column", "value", "rows"], shown)
    lines += [
        "",
        f"{found['contradictory']} images with 'No Finding' and a finding; {found['repeated_rows']} repeated rows; "
        f"{found['disagreeing']} images about which rows disagree, {found['patient_conflicts']} of unclear patient.",
        *found["rules"],
    ]
    return lines


def _some(names: list[str]) -> str:
    """Names of columns; a table may have thousands, which ``--json`` has all."""
    more = len(names) - _MOST_TOLD
    return ", ".join(names[:_MOST_TOLD]) + (f" and {more} more" if more > 0 else "")


def _policies(found: dict[str, Any]) -> list[str]:
    """What becomes of uncertain labels and empty cells, said once where it is the same for all findings."""
    said = []
    for key, what in (("uncertain", "Uncertain labels"), ("blank", "Empty cells")):
        by_policy: dict[str, list[str]] = {}
        for finding in found["findings"]:
            by_policy.setdefault(finding[f"{key}_becomes"], []).append(finding["finding"])
        most = max(by_policy, key=lambda policy: len(by_policy[policy]))
        others = [f"{policy} for {', '.join(names)}" for policy, names in by_policy.items() if policy != most]
        said.append(f"{what}: {'; '.join([most, *others])}.")
    return said
