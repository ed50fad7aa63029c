"""Handing patients out to sites so that each class comes close to its drawn shares."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Site number of an image that no site may hold.
DROPPED = -1


def deal_patients(classes: Bools, patients: Ints, shares: Floats, held: Bools, rng: np.random.Generator) -> Ints:
    """Deal the images of one split, every patient to one site.

    Patients with the rarest class go first (in drawn order among equals), each to the site where its classes
    are furthest below their targets, every class counting in shares of its own total. A patient whose
    images fit no site goes where most of them are kept; its images of a class that this site misses are dropped.

    Args:
        classes: classes each image counts for, ``[N, K]``; one or more an image.
        patients: patient number of each image, ``[N]``, from 0.
        shares: share of each class that each site is to get, ``[K, S]``.
        held: whether a site may hold a class, ``[K, S]``.
        rng: source of randomness.

    Returns:
        Site number of each image or :data:`DROPPED`, ``[N]``.
    """
    n_patients = int(patients.max()) + 1 if len(patients) else 0
    counts = np.zeros((n_patients, classes.shape[1]), dtype=np.float64)
    np.add.at(counts, patients, classes)
    # bool @ bool is a logical or over classes: has the image a class that the site misses?
    fits = ~(classes @ ~held)
    kept = np.zeros((n_patients, shares.shape[1]), dtype=np.int64)
    np.add.at(kept, patients, fits)
    whole = kept == np.bincount(patients, minlength=n_patients)[:, None]
    best = kept == kept.max(axis=1, keepdims=True, initial=0)

    totals = counts.sum(axis=0)
    weight = 1.0 / np.maximum(totals, 1.0)
    lacking = shares.copy()  # in shares of the class; falls below 0 where a site has more than its target
    site_of = np.full(n_patients, DROPPED, dtype=np.int64)
    for patient in _rarest_first(counts, totals, rng):
        load = counts[patient] * weight
        score = np.where(best[patient], load @ lacking, -np.inf)
        top = np.flatnonzero(score >= score.max() - 1e-12)
        site = int(top[0] if len(top) == 1 else rng.choice(top))
        if not whole[patient, site]:
            mine = (patients == patient) & fits[:, site]
            load = classes[mine].sum(axis=0) * weight
        lacking[:, site] -= load
        site_of[patient] = site
    dealt = site_of[patients]
    return np.where(fits[np.arange(len(dealt)), dealt], dealt, DROPPED) if len(dealt) else dealt


def _rarest_first(counts: Floats, totals: Floats, rng: np.random.Generator) -> Ints:
    """Order of the patients: by the size of their rarest class, shuffled among equals."""
    rarest = np.where(counts > 0, totals, np.inf).min(axis=1, initial=np.inf)
    shuffled = rng.permutation(len(counts))
    order: Ints = shuffled[np.argsort(rarest[shuffled], kind="stable")]
    return order
