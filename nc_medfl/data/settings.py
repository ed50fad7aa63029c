"""What to prepare, and how: everything the command line can say, checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from nc_medfl.errors import UserError

if TYPE_CHECKING:
    from nc_medfl.data.sources.choices import LabelChoices

_ENGINE = re.compile(r"dask://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):\d{1,5}")
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def default_workers() -> int:
    """Two processes, or one where there is one core."""
    return min(2, os.cpu_count() or 1)


@dataclass(frozen=True)
class PrepareSettings:
    """What to prepare, and how.

    Attributes:
        source: where images and labels come from (see ``nc-medfl labels``).
        images: the images folder.
        labels: the label table.
        metadata: a second table, where the source has one (MIMIC-CXR, RSNA).
        out: the store to be written.
        site: the site's name in the manifest.
        label_map: how to read the table: a map's name or file, or a ``site.yaml`` that holds one; None: the
            source's own map, or inferred from the column names.
        vocabulary: name of the vocabulary.
        image_column: overrides the table's image column.
        image_key: overrides what that column holds (``filename``, ``sop_instance_uid``, ``accession``).
        patient_column: overrides the table's patient column.
        label_columns: columns that are findings, ``COLUMN`` or ``COLUMN=FINDING``, or the one that lists them.
        ignore_columns: columns that are no findings.
        uncertain: overrides what becomes of uncertain labels (``ignore``, ``zeros``, ``ones``; or of one finding:
            ``Edema=ones``).
        blank: the same for empty cells (``unknown``, ``negative``).
        agreement: when a finding that several readers looked for is present (``majority``, ``any``, ``all``).
        size: side of the stored square, pixels.
        fractions: share of the images in train, val, test.
        seed: of the split.
        salt_file: the secret that keys identifiers; None: made in ``site_private`` (NIH: a public one).
        workers: reading processes; 0 reads in this process.
        engine: ``processes`` of this machine, or ``dask://HOST:PORT``, the scheduler of a Dask cluster.
        jpeg2000_reduce: resolution levels of JPEG 2000 left out for speed, each halves the sides.
        shift_dates: whether the manifest holds study dates, moved by a secret offset of each patient.
        replace: whether a store that stands may be made anew with other settings or without files that are gone.
    """

    source: str
    images: Path
    labels: Path
    out: Path
    site: str = "site"
    metadata: Path | None = None
    label_map: Path | str | None = None
    vocabulary: str = "nih14"
    image_column: str | None = None
    image_key: str | None = None
    patient_column: str | None = None
    label_columns: tuple[str, ...] = ()
    ignore_columns: tuple[str, ...] = ()
    uncertain: str | tuple[str, ...] | None = None
    blank: str | tuple[str, ...] | None = None
    agreement: str = "majority"
    size: int = 256
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    seed: int = 0
    salt_file: Path | None = None
    workers: int = 1
    engine: str = "processes"
    jpeg2000_reduce: int = 0
    shift_dates: bool = False
    replace: bool = False

    def check(self) -> None:
        """Raise a UserError for a value that can't be meant."""
        self.label_choices().check()
        if not _SITE.fullmatch(self.site):
            raise UserError(f"--site {self.site}: use 1 to 64 letters, digits, '_', '.' and '-'.")
        if not 16 <= self.size <= 2048:
            raise UserError(f"--size {self.size}: the side of the stored images is 16 to 2048 pixels.")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: give 0 or more.")
        if self.workers < 0:
            raise UserError(f"--workers {self.workers}: give 1 or more (0: in this process).")
        if not 0 <= self.jpeg2000_reduce <= 5:
            raise UserError(f"--jpeg2000-reduce {self.jpeg2000_reduce}: give 0 (none) to 5 levels.")
        if self.engine != "processes" and not _ENGINE.fullmatch(self.engine):
            raise UserError(f"--engine {self.engine}: there are 'processes' and dask://HOST:PORT.")
        shares = self.fractions
        if len(shares) != 3 or not all(0 <= s <= 1 for s in shares) or not np.isclose(sum(shares), 1):
            raise UserError("--fractions: give three numbers that add up to 1, such as 0.7,0.1,0.2.")

    def label_choices(self) -> LabelChoices:
        """What the settings say of labels."""
        from nc_medfl.data.sources.choices import Agreement, LabelChoices
        from nc_medfl.labels.infer import Named
        from nc_medfl.labels.label_map import ImageKey

        return LabelChoices(
            source=self.source,
            table=self.labels,
            metadata=self.metadata,
            vocabulary=self.vocabulary,
            label_map=self.label_map,
            named=Named(
                image=self.image_column,
                patient=self.patient_column,
                labels=self.label_columns,
                ignore=self.ignore_columns,
                key=cast("ImageKey | None", self.image_key),
            ),
            uncertain=_several(self.uncertain),
            blank=_several(self.blank),
            agreement=cast("Agreement", self.agreement),
        )


def _several(texts: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts or ())
