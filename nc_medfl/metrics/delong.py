"""DeLong's variance of AUCs: a cross-check of the bootstrap that takes no draws.

DeLong, DeLong and Clarke-Pearson, Biometrics 1988; its placements from mid-ranks (Sun and Xu, 2014). Here images
are gathered by patient before the variances are taken (Obuchowski 1997), so repeated images count as one patient's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]


def delong(
    scores: npt.ArrayLike, labels: npt.ArrayLike, patients: npt.ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """AUCs of several scores of the same images, and their covariance.

    Args:
        scores: of ``M`` models, ``[M, N]``, finite.
        labels: 0 or 1, ``[N]``.
        patients: ``[N]``; None counts each image as a patient.

    Returns:
        AUCs ``[M]`` and their covariance ``[M, M]``; NaN with fewer than two positives or two negatives, or two
        patients.
    """
    scores, positive = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(labels) == 1
    p, n = int(positive.sum()), int((~positive).sum())
    n_models = len(scores)
    units = np.arange(scores.shape[1]) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]
    n_units = int(units.max(initial=-1)) + 1
    if p < 2 or n < 2 or n_units < 2:
        return np.full(n_models, np.nan), np.full((n_models, n_models), np.nan)
    ranks = rankdata(scores, axis=1)
    over = (ranks[:, positive] - rankdata(scores[:, positive], axis=1)) / n
    under = 1 - (ranks[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / p
    auc = over.mean(axis=1)
    of_positive = _sum_by(over - auc[:, None], units[positive], n_units)
    of_negative = _sum_by(under - auc[:, None], units[~positive], n_units)
    i_p, i_n = (len(np.unique(units[mask])) for mask in (positive, ~positive))
    i_p, i_n = max(i_p, 2), max(i_n, 2)
    s_p = of_positive @ of_positive.T * i_p / ((i_p - 1) * p**2)
    s_n = of_negative @ of_negative.T * i_n / ((i_n - 1) * n**2)
    cross = of_positive @ of_negative.T * n_units / ((n_units - 1) * p * n)
    covariance: Floats = s_p + s_n + cross + cross.T
    if patients is None:
        covariance = s_p + s_n
    return auc, covariance


def _sum_by(values: Floats, units: npt.NDArray[np.int64], n_units: int) -> Floats:
    return np.stack([np.bincount(units, weights=row, minlength=n_units) for row in values])


def difference_p(auc: Floats, covariance: Floats) -> float:
    """Two-sided p that the first two AUCs are equal; NaN where the variance is none."""
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if not variance > 0:
        return float("nan")
    return float(2 * ndtr(-abs(auc[0] - auc[1]) / np.sqrt(variance)))
