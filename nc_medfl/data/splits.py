"""Training, validation and test patients: disjoint, and with each finding spread over all three.

Iterative stratification after Sechidis, Tsoumakas and Vlahavas (ECML PKDD 2011), at patient level: the
rarest finding is dealt out first, each patient to the split that still wants most images of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nc_medfl.data.manifest import SPLITS

Counts = npt.NDArray[np.int64]

#: Which split goes first where a finding has fewer patients than there are splits.
_FIRST_SERVED = (0, 2, 1)


def assign_splits(
    patient_ids: Sequence[str],
    labels: npt.NDArray[np.float32],
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> npt.NDArray[np.str_]:
    """Assign each image to ``train``, ``val`` or ``test``, all images of a patient to one.

    The result depends on the set of (patient, labels) and the seed, not on their order. A finding with as many
    positive patients as there are splits has one in each at least, and with that many patients no split with
    a fraction above 0 is empty.

    Args:
        patient_ids: one an image.
        labels: ``[N, C]``, NaN for unknown (counted as not positive).
        fractions: wanted share of the images, in the order train, val, test.
        seed: of the order in which equal patients are dealt out.

    Returns:
        One of the three names an image, ``[N]``.

    Raises:
        ValueError: if lengths differ, or the fractions are negative or don't add up to 1.
    """
    share = np.asarray(fractions, dtype=np.float64)
    if len(patient_ids) != len(labels):
        raise ValueError(f"{len(patient_ids)} patients for {len(labels)} rows of labels")
    if share.shape != (3,) or (share < 0).any() or not np.isclose(share.sum(), 1.0):
        raise ValueError("fractions must be three numbers of 0 or more that add up to 1")
    if not len(patient_ids):
        return np.array([], dtype="<U5")
    # Not an array of texts, which takes four bytes a character of the longest for each.
    patients = {patient: number for number, patient in enumerate(sorted(set(patient_ids)))}
    of_image = np.fromiter((patients[patient] for patient in patient_ids), np.int64, len(patient_ids))
    images = np.bincount(of_image, minlength=len(patients)).astype(np.int64)
    positives = np.zeros((len(patients), labels.shape[1]), dtype=np.int64)
    np.add.at(positives, of_image, (labels == 1).astype(np.int64))
    dealt = _deal(images, positives, share, np.random.default_rng(seed).permutation(len(patients)))
    _fill_empty_splits(dealt, images, positives, share)
    return np.asarray(SPLITS)[dealt[of_image]]


def _deal(images: Counts, positives: Counts, share: npt.NDArray[np.float64], shuffled: Counts) -> Counts:
    """Split number of each patient: findings from the rarest to the commonest, then the rest."""
    dealt = np.full(len(images), -1, dtype=np.int64)
    wanted = share * images.sum()
    wanted_of = np.outer(positives.sum(axis=0), share)
    has = positives > 0
    while True:
        left = has[dealt < 0].sum(axis=0)
        if not left.any():
            break
        finding = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        queue = shuffled[has[shuffled, finding] & (dealt[shuffled] < 0)]
        queue = queue[np.argsort(-positives[queue, finding], kind="stable")]
        lacking = [s for s in _FIRST_SERVED if share[s] > 0 and not has[dealt == s, finding].any()]
        for patient in queue:
            # The first few serve the splits that have none of this finding; then whoever wants most.
            split = lacking.pop(0) if lacking else _neediest(wanted_of[finding], wanted, share)
            dealt[patient] = split
            wanted[split] -= images[patient]
            wanted_of[:, split] -= positives[patient]
    rest = shuffled[dealt[shuffled] < 0]
    for patient in rest[np.argsort(-images[rest], kind="stable")]:
        dealt[patient] = _neediest(wanted, wanted, share)
        wanted[dealt[patient]] -= images[patient]
    return dealt


def _neediest(first: npt.NDArray[np.float64], then: npt.NDArray[np.float64], share: npt.NDArray[np.float64]) -> int:
    open_splits = (s for s in range(3) if share[s] > 0)
    return max(open_splits, key=lambda s: (round(float(first[s]), 9), round(float(then[s]), 9), -s))


def _fill_empty_splits(dealt: Counts, images: Counts, positives: Counts, share: npt.NDArray[np.float64]) -> None:
    """Give a split without patients the one that is missed least, where patients suffice."""
    for split in _FIRST_SERVED:
        if share[split] == 0 or (dealt == split).any():
            continue
        sizes = np.bincount(dealt, minlength=3)
        donor = int(np.argmax(sizes))
        if sizes[donor] < 2:
            continue
        candidates = np.flatnonzero(dealt == donor)
        order = np.lexsort((candidates, images[candidates], positives[candidates].sum(axis=1)))
        dealt[candidates[order[0]]] = split
