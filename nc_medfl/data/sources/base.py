"""What every source gives: a label table, the files, and how a file is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nc_medfl.data.inputs.files import SourceFile, SourceKind
from nc_medfl.data.inputs.listing import list_files
from nc_medfl.data.sources.tables import read_table
from nc_medfl.labels import HarmonisedLabels, Preview

__all__ = ["SourceData", "SourceFile", "SourceKind", "list_files", "read_table"]


@dataclass(frozen=True)
class SourceData:
    """A source, opened: everything that is known before an image is read.

    Attributes:
        kind: which reader the files need.
        files: sorted by name.
        labels: the harmonised label table.
        extra: by image key, facts that only the table holds (see :func:`nc_medfl.data.sources.facts.facts_of_table`).
        match_uid: whether a key may also be an SOP Instance UID.
        match_name: whether a key may be a file name.
        match_accession: whether keys are accession numbers; one may be about several images.
        public: whether the images are published, so that keys need no secret.
        splits: by image key, the split that the publisher gave it; where empty, splits are drawn.
        label_map: name and version of the map, for the record.
        label_map_hash: SHA-256 of all that the map says.
        uncertain, blank: what became of uncertain labels and empty cells: one policy, or one by finding.
        record: the other choices about labels, for the record.
        preview: what the map did to the table, in counts.
        table: what the table is called in messages.
    """

    kind: SourceKind
    files: tuple[SourceFile, ...]
    labels: HarmonisedLabels
    label_map: str
    table: str
    preview: Preview
    label_map_hash: str = ""
    uncertain: str | Mapping[str, str] = "ignore"
    blank: str | Mapping[str, str] = "unknown"
    record: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    match_uid: bool = True
    match_name: bool = True
    match_accession: bool = False
    public: bool = False
    splits: Mapping[str, str] = field(default_factory=dict)
