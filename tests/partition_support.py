"""Pools to deal out: label tables without images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

FINDINGS = ("Edema", "Effusion", "Hernia", "Mass", "Nodule", "Pneumonia")


def make_pool(
    patients: int = 200, *, seed: int = 0, images: int = 3, prevalence: float = 0.2, unknown: float = 0.0
) -> pd.DataFrame:
    """A manifest of patients with 1 to ``images`` images each, 60/20/20 split by patient."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), rng.integers(1, images + 1, patients))
    labels = (rng.random((len(owner), len(FINDINGS))) < prevalence).astype(np.float32)
    labels[rng.random(labels.shape) < unknown] = np.nan
    split = np.asarray(["train", "train", "train", "val", "test"])[rng.permutation(patients) % 5]
    return labelled(owner, split[owner], labels)


def labelled(
    owner: npt.ArrayLike, split: npt.ArrayLike, labels: npt.ArrayLike, findings: tuple[str, ...] = FINDINGS
) -> pd.DataFrame:
    """A manifest from patient numbers, splits and labels ``[N, C]``."""
    values = np.asarray(labels, dtype=np.float32)
    table = pd.DataFrame({"patient_key": [f"p{number:05d}" for number in np.asarray(owner)], "split": split})
    for column, name in enumerate(findings):
        table[f"label:{name}"] = values[:, column]
    table["label:No Finding"] = (np.nansum(values, axis=1) == 0).astype(np.float32)
    return table
