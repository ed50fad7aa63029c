"""ChestMNIST of MedMNIST v2: images and labels in one ``.npz`` (Yang et al., Scientific Data 2023)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.data.sources.choices import LabelChoices
from nc_medfl.errors import UserError

#: ChestMNIST's labels in the order of its label vector, as MedMNIST's INFO names them.
CHESTMNIST = (
    *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia"),
    *("pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
)
SPLITS = ("train", "val", "test")


def read_npz_labels(path: Path) -> tuple[list[str], npt.NDArray[np.int8]]:
    """Labels of a ChestMNIST archive.

    Returns:
        Keys of the images, ``train/000000`` and so on, those of training first, then val and test; and their
        labels, int8 ``[N, 14]``, 0 and 1.

    Raises:
        UserError: if it is no such archive.
    """
    keys: list[str] = []
    labels: list[npt.NDArray[np.int8]] = []
    try:
        with np.load(path, allow_pickle=False) as archive:
            for split in SPLITS:
                if f"{split}_labels" in archive:
                    part = np.asarray(archive[f"{split}_labels"])
                    labels.append(_checked(part, f"{path.name}: '{split}_labels'"))
                    keys += [f"{split}/{number:06d}" for number in range(len(part))]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise UserError(f"{path.name}: cannot be read as .npz. Give chestmnist.npz as --labels.") from error
    if not labels:
        raise UserError(f"{path.name}: has no train_labels, val_labels, test_labels. Give chestmnist.npz as --labels.")
    return keys, np.concatenate(labels)


def _checked(labels: npt.NDArray[np.generic], where: str) -> npt.NDArray[np.int8]:
    if labels.ndim != 2 or labels.shape[1] != len(CHESTMNIST) or not np.isin(labels, (0, 1)).all():
        raise UserError(
            f"{where} is no table of 0 and 1 with {len(CHESTMNIST)} columns. Of MedMNIST, only ChestMNIST is read."
        )
    return labels.astype(np.int8)


def medmnist_table(choices: LabelChoices) -> pd.DataFrame:
    """A row an image: its key and 14 columns of 0 and 1.

    Raises:
        UserError: if it is no ChestMNIST archive.
    """
    keys, labels = read_npz_labels(choices.table)
    table: pd.DataFrame = pd.DataFrame(labels.astype(str), columns=list(CHESTMNIST), dtype=str)
    table.insert(0, "image", keys)
    return table
