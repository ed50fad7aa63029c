"""Dealing by what the images themselves say: a site for each value of a column of the manifest."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.data.manifest import LABEL, RAW, SPLITS, label_matrix
from nc_medfl.errors import UserError
from nc_medfl.partition.dealing import DROPPED
from nc_medfl.partition.plan import PartitionPlan, patient_numbers, split_numbers

#: More values than this are no sites.
MOST_SITES = 50
#: Columns that tell rows apart, or belong to how a store is kept.
_NEVER = ("sample_id", "patient_key", "study_key", "source_sha256", "pixel_sha256", "shard", "row", "split")


@dataclass(frozen=True)
class NaturalSettings:
    """A site for each value of a column.

    Attributes:
        column: of the manifest, such as ``site`` or ``view``.
        min_images: training images that each site must have.
    """

    column: str
    min_images: int = 10


def usable_columns(frame: pd.DataFrame) -> list[str]:
    """Columns of a manifest with 2 values or more, and no more than can be sites."""
    names = [str(name) for name in frame if name not in _NEVER and not str(name).startswith((LABEL, RAW))]
    return [name for name in names if 2 <= _n_values(frame[name]) <= MOST_SITES]


def _n_values(values: pd.Series[Any]) -> int:
    return int(values[values.astype(str) != ""].nunique())


def plan_natural(frame: pd.DataFrame, findings: tuple[str, ...], settings: NaturalSettings) -> PartitionPlan:
    """Decide the site of every image of a pool by a column.

    A patient goes to one site as a whole: to the value that most of their images have, the first by name where several
    have as many. A patient without any value goes to no site.

    Args:
        frame: the pool's manifest.
        findings: of its label columns.
        settings: which column.

    Raises:
        UserError: if there is no such column, it has one value or too many, or a site would have too few images.
    """
    values = _values(frame, settings.column)
    names = sorted(set(values.dropna()))
    patients = patient_numbers(frame)
    splits = split_numbers(frame, patients)
    votes = np.zeros((patients.max() + 1, len(names)), dtype=np.int64)
    known = values.notna().to_numpy()
    np.add.at(votes, (patients[known], np.searchsorted(names, values[known].to_numpy(dtype=str))), 1)
    of_patient = np.where(votes.any(axis=1), votes.argmax(axis=1), DROPPED)
    site: npt.NDArray[np.int64] = of_patient[patients].astype(np.int64)
    _check(site, splits, names, settings)
    positive = label_matrix(frame, findings) == 1
    held = np.stack([positive[site == number].any(axis=0) for number in range(len(names))], axis=1)
    return PartitionPlan(site, held, 1, tuple(_site_name(name) for name in names))


def _values(frame: pd.DataFrame, column: str) -> pd.Series[str]:
    known = usable_columns(frame)
    if column not in known:
        found = f"has {_n_values(frame[column])} values" if column in frame else "isn't there"
        choice = f"Name one of: {', '.join(known)}" if known else "No column here has that"
        raise UserError(f"--by {column}: the column {found}; 2 to {MOST_SITES} make sites. {choice}.")
    values = frame[column]
    texts = values.map(_text, na_action="ignore").astype(object)
    sites: pd.Series[str] = texts.where(values.notna() & (texts != ""), None)
    by_name: dict[str, str] = {}
    for value in sorted(set(sites.dropna())):
        other = by_name.setdefault(_site_name(value), value)
        if other != value:
            raise UserError(f"--by {column}: '{other}' and '{value}' would make sites of one name. Rename one of them.")
    return sites


def _text(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value).strip()


def _site_name(value: str) -> str:
    """The value as a name of a site and of its folder."""
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", value).strip("-_")[:64]
    return kept or "other"


def _check(
    site: npt.NDArray[np.int64], splits: npt.NDArray[np.int64], names: list[str], settings: NaturalSettings
) -> None:
    for number, name in enumerate(names):
        counts = np.bincount(splits[site == number], minlength=len(SPLITS))
        least = (settings.min_images, 1, 1)
        for split, count, enough in zip(SPLITS, counts.tolist(), least, strict=True):
            if count < enough:
                raise UserError(
                    f"--by {settings.column}: site '{name}' has {count} {split} images and needs {enough}. "
                    "Lower --min-images, prepare the pool with other --fractions, or name another column."
                )
