"""Where images and labels come from. A source opens its label table and lists its files; a worker reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.sources.base import SourceData, SourceFile, SourceKind, list_files
from nc_medfl.data.sources.choices import LabelChoices
from nc_medfl.data.sources.facts import facts_in
from nc_medfl.data.sources.labelled import LabelTable, preview_labels, read_labels
from nc_medfl.data.sources.registry import PICTURES, SOURCES, Source, get_source, has_source, source_names
from nc_medfl.data.sources.tables import read_table
from nc_medfl.labels import LabelMap, Vocabulary
from nc_medfl.labels.label_map import DEFAULT

__all__ = [
    "SOURCES",
    "LabelChoices",
    "LabelTable",
    "Source",
    "SourceData",
    "SourceFile",
    "get_source",
    "has_source",
    "list_files",
    "open_source",
    "preview_labels",
    "read_labels",
    "read_table",
    "source_names",
]


def open_source(settings: PrepareSettings, vocabulary: Vocabulary) -> SourceData:
    """Open the source that the settings name.

    Raises:
        UserError: if the folder, the table or the map can't be used.
    """
    choices = settings.label_choices()
    source = get_source(settings.source)
    table = read_labels(choices, vocabulary)
    files = list_files(settings.images, source.suffixes)
    labels, label_map = table.labels, table.label_map
    key = label_map.image_key
    kind = source.kind or _kind_of(files)
    facts = facts_in(table.rows.iloc[list(labels.rows)], label_map) if kind == "picture" else []
    return SourceData(
        kind=kind,
        files=files,
        labels=labels,
        label_map=f"{label_map.name} {label_map.version}",
        label_map_hash=_hash_of(label_map),
        uncertain=_for_the_record(label_map.uncertain),
        blank=_for_the_record(label_map.blank),
        record={"agreement": choices.agreement} if source.readers else {},
        table=choices.table.name,
        preview=table.preview,
        extra=dict(zip(labels.keys, facts, strict=True)) if facts else {},
        match_uid=key == "sop_instance_uid" or (key == "filename" and kind == "dicom"),
        match_name=key == "filename",
        match_accession=key == "accession",
        public=source.public,
        splits={name: name.split("/", 1)[0] for name in labels.keys} if source.splits else {},
    )


def _kind_of(files: Sequence[SourceFile]) -> SourceKind:
    """Pictures, if the first file that tells is one."""
    return "picture" if any(file.name.lower().endswith(PICTURES) for file in files[:1000]) else "dicom"


def _hash_of(label_map: LabelMap) -> str:
    return hashlib.sha256(json.dumps(label_map.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _for_the_record(policies: Mapping[str, str]) -> str | dict[str, str]:
    return policies[DEFAULT] if set(policies) == {DEFAULT} else dict(policies)
