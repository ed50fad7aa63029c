"""What the command line says of labels: which table, which map, and what to do with what it leaves open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nc_medfl.errors import UserError
from nc_medfl.labels.infer import Named
from nc_medfl.labels.label_map import BLANK, UNCERTAIN, ImageKey, policies_of

_NOTHING_NAMED = Named()
Agreement = Literal["majority", "any", "all"]

AGREEMENTS: tuple[Agreement, ...] = ("majority", "any", "all")
IMAGE_KEYS: tuple[ImageKey, ...] = ("filename", "sop_instance_uid", "accession")


@dataclass(frozen=True)
class LabelChoices:
    """Which labels, and how they are read.

    Attributes:
        source: name of the source (see :func:`nc_medfl.data.sources.registry.source_names`).
        table: the label table.
        metadata: a second table, where the source has one.
        vocabulary: name of the vocabulary.
        label_map: a map's name or file, or a ``site.yaml`` that holds one; None: the source's own, or inferred.
        named: columns that the command line names.
        uncertain, blank: policies that override the map's, ``POLICY`` or ``FINDING=POLICY``.
        agreement: when a finding counts as present that several readers looked for.
    """

    source: str
    table: Path
    metadata: Path | None = None
    vocabulary: str = "nih14"
    label_map: Path | str | None = None
    named: Named = _NOTHING_NAMED
    uncertain: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()
    agreement: Agreement = "majority"

    def check(self) -> None:
        """Raise a UserError for a value that can't be meant."""
        from nc_medfl.data.sources.registry import get_source

        source = get_source(self.source)
        if self.agreement not in AGREEMENTS:
            raise UserError(f"--agreement {self.agreement}: there are {', '.join(AGREEMENTS)}.")
        if self.named.key is not None and self.named.key not in IMAGE_KEYS:
            raise UserError(f"--image-key {self.named.key}: there are {', '.join(IMAGE_KEYS)}.")
        policies_of(self.uncertain, UNCERTAIN, "--uncertain")
        policies_of(self.blank, BLANK, "--blank")
        published = source.published
        self._check_named(published)
        if self.metadata is not None and not source.metadata:
            raise UserError(f"--metadata: source '{self.source}' has no second table. Leave it out.")
        if self.agreement != "majority" and not source.readers:
            raise UserError(f"--agreement: source '{self.source}' has one label an image. Leave it out.")

    def _check_named(self, published: bool) -> None:
        """Refuse options of the inferred map where there is another."""
        by = "--label-map" if self.label_map is not None else f"--source {self.source}" if published else ""
        for option, given in (("--ignore-column", self.named.ignore), ("--label-columns", self.named.labels)):
            if by and given:
                raise UserError(
                    f"{option} {given[0]}: {by} says already what each column means. Leave the option out, or "
                    "change the label map."
                )
