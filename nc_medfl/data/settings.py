"""What to prepare, and how: everything the command line can say, checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from nc_medfl.errors import UserError

_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def default_workers() -> int:
    """Two processes, or one where there is one core."""
    return min(2, os.cpu_count() or 1)


@dataclass(frozen=True)
class PrepareSettings:
    """What to prepare, and how.

    Attributes:
        source: ``nih`` (PNGs and Data_Entry CSV) or ``dicom`` (a folder of DICOM files and a CSV).
        images: the images folder.
        labels: the label table.
        out: the store to be written.
        site: the site's name in the manifest.
        label_map: how to read the table; None: NIH's own map, or inferred from the column names.
        vocabulary: name of the vocabulary.
        image_column: overrides the table's image column.
        ignore_columns: columns that are no findings.
        uncertain: overrides what becomes of uncertain labels (``ignore``, ``zeros``, ``ones``).
        size: side of the stored square, pixels.
        fractions: share of the images in train, val, test.
        seed: of the split.
        salt_file: the secret that keys identifiers; None: made in ``site_private`` (NIH: a public one).
        workers: reading processes; 0 reads in this process.
    """

    source: Literal["nih", "dicom"]
    images: Path
    labels: Path
    out: Path
    site: str = "site"
    label_map: Path | None = None
    vocabulary: str = "nih14"
    image_column: str | None = None
    ignore_columns: tuple[str, ...] = ()
    uncertain: Literal["ignore", "zeros", "ones"] | None = None
    size: int = 256
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    seed: int = 0
    salt_file: Path | None = None
    workers: int = 1

    def check(self) -> None:
        """Raise a UserError for a value that can't be meant."""
        if self.source not in ("nih", "dicom"):
            raise UserError(f"--source {self.source}: there are nih and dicom.")
        if not _SITE.fullmatch(self.site):
            raise UserError(f"--site {self.site}: use 1 to 64 letters, digits, '_', '.' and '-'.")
        if not 16 <= self.size <= 2048:
            raise UserError(f"--size {self.size}: the side of the stored images is 16 to 2048 pixels.")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: give 0 or more.")
        if self.workers < 0:
            raise UserError(f"--workers {self.workers}: give 1 or more.")
        if self.uncertain not in (None, "ignore", "zeros", "ones"):
            raise UserError(f"--uncertain {self.uncertain}: there are ignore, zeros and ones.")
        shares = self.fractions
        if len(shares) != 3 or not all(0 <= s <= 1 for s in shares) or not np.isclose(sum(shares), 1):
            raise UserError("--fractions: give three numbers that add up to 1, such as 0.7,0.1,0.2.")
