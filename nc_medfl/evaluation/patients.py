"""Scores beside labels, and sums over images gathered by patient, so that quotients of them can be resampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nc_medfl.metrics.bootstrap import patient_weights

Floats = npt.NDArray[np.float64]


class Scored(Protocol):
    """Anything that has scores beside labels, as :class:`ScoredSplit`."""

    @property
    def scores(self) -> Floats:
        """Probabilities, ``[N, C]``."""

    @property
    def labels(self) -> Floats:
        """1, 0 or NaN (unknown), ``[N, C]``."""

    @property
    def patients(self) -> npt.NDArray[np.int64]:
        """A number for each image's patient, ``[N]``."""


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """Scores beside labels, of the images of one split of one site.

    Attributes:
        scores: probabilities, ``[N, C]``.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.
        patients: a number for each image that tells its patient from the others, ``[N]``.
    """

    scores: Floats
    labels: Floats
    patients: npt.NDArray[np.int64]


def pooled_arrays(parts: Sequence[Scored]) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Scores, labels and patients of several sites together; equal numbers at two sites are two patients."""
    offsets = np.cumsum([0, *(int(part.patients.max(initial=-1)) + 1 for part in parts)])
    patients = [part.patients + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
    return (
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate(patients),
    )


def by_patient(values: Floats, patients: npt.ArrayLike) -> Floats:
    """Sum rows of one patient.

    Args:
        values: ``[N, K]``.
        patients: of the rows, ``[N]``.

    Returns:
        ``[P, K]``.
    """
    codes = np.unique(np.asarray(patients), return_inverse=True)[1]
    if not len(codes):
        return np.zeros((0, values.shape[1]))
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    summed: Floats = np.add.reduceat(values[order], starts, axis=0)
    return summed


def resampled_sums(of_patients: Floats, resamples: int, seed: int) -> Iterator[Floats]:
    """Totals over patients drawn with replacement.

    Args:
        of_patients: a row a patient, ``[P, K]``.
        resamples: how many draws.
        seed: of the draws.

    Yields:
        Totals ``[b, K]``, until all resamples are drawn.
    """
    for weights in patient_weights(np.arange(len(of_patients)), resamples, seed):
        yield weights.T.astype(np.float64) @ of_patients
