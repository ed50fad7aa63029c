"""Which image goes to which site: settings, checks, and draws until every site can train and be measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.data.manifest import SPLITS, label_matrix
from nc_medfl.errors import UserError
from nc_medfl.partition.dealing import DROPPED, deal_patients
from nc_medfl.partition.dirichlet import class_shares, site_sizes
from nc_medfl.partition.missing_classes import draw_held, most_missing

#: Draws before giving up on a partition in which every site has enough.
MOST_DRAWS = 100


@dataclass(frozen=True)
class PartitionSettings:
    """How a pool is dealt out.

    Attributes:
        sites: number of sites, 2 or more.
        alpha: Dirichlet concentration of the classes over sites; 0.1 is strong skew, 100 is nearly none.
        missing_classes: findings of which each site holds no positive.
        seed: of every draw.
        quantity_alpha: Dirichlet concentration of the site sizes; None for equal sizes.
        min_images: training images that each site gets at least.

    Raises:
        UserError: if a value is out of range.
    """

    sites: int
    alpha: float
    missing_classes: int = 0
    seed: int = 0
    quantity_alpha: float | None = None
    min_images: int = 10

    def __post_init__(self) -> None:
        if self.sites < 2:
            raise UserError(f"--sites {self.sites}: a federation needs two sites or more.")
        for option, value in (("--alpha", self.alpha), ("--quantity-alpha", self.quantity_alpha)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"{option} {value:g}: give a number above 0 (0.1 is strong skew, 100 nearly none).")
        for option, count in (("--missing-classes", self.missing_classes), ("--seed", self.seed)):
            if count < 0:
                raise UserError(f"{option} {count}: give 0 or more.")
        if self.min_images < 1:
            raise UserError(f"--min-images {self.min_images}: give 1 or more.")


@dataclass(frozen=True)
class PartitionPlan:
    """A drawn partition.

    Attributes:
        site: site number of each image of the pool, -1 for one that no site may hold, ``[N]``.
        held: whether a site was drawn to hold a finding, or does where nothing is drawn, ``[C, S]``.
        draw: how many draws it took.
        names: of the sites.
    """

    site: npt.NDArray[np.int64]
    held: npt.NDArray[np.bool_]
    draw: int
    names: tuple[str, ...]

    @property
    def dropped(self) -> int:
        """Images that went to no site."""
        return int((self.site == DROPPED).sum())


def site_names(sites: int) -> list[str]:
    """Names of the sites of a partition: ``site-1``, ``site-2``, ..."""
    return [f"site-{number + 1}" for number in range(sites)]


def plan_partition(frame: pd.DataFrame, findings: tuple[str, ...], settings: PartitionSettings) -> PartitionPlan:
    """Decide the site of every image of a pool. Each split is dealt by itself, with the same shares.

    Images without a positive finding count as one more class, which no site misses. Unknown labels are not
    positive.

    Args:
        frame: the pool's manifest.
        findings: of its label columns.
        settings: how to deal.

    Raises:
        UserError: if the pool is too small for the settings, or no draw gives every site its minimum.
    """
    patients = patient_numbers(frame)
    splits = split_numbers(frame, patients)
    positive = label_matrix(frame, findings) == 1
    _check_pool(positive, patients, splits, settings)
    classes = np.column_stack([positive, ~positive.any(axis=1)])
    for draw in range(1, MOST_DRAWS + 1):
        plan = _draw(classes, patients, splits, settings, draw)
        if plan is not None:
            return plan
    raise UserError(
        f"no partition in {MOST_DRAWS} draws in which each of {settings.sites} sites has {settings.min_images} "
        "training images, a validation and a test image. Raise --alpha, or lower --sites, --missing-classes or "
        "--min-images."
    )


def _draw(
    classes: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.int64],
    splits: npt.NDArray[np.int64],
    settings: PartitionSettings,
    draw: int,
) -> PartitionPlan | None:
    """One draw, or None where a site falls short."""
    rng = np.random.default_rng([settings.seed, draw])
    held = np.ones((classes.shape[1], settings.sites), dtype=np.bool_)
    # Only a finding that the pool has positives of can be taken from a site.
    present = np.flatnonzero(classes[:, :-1].any(axis=0))
    held[present] = draw_held(len(present), settings.sites, settings.missing_classes, rng)
    sizes = site_sizes(settings.sites, settings.quantity_alpha, rng)
    shares = class_shares(settings.alpha, sizes, held, rng)
    site = np.full(len(classes), DROPPED, dtype=np.int64)
    # Training is dealt last: it takes longest, and a draw fails on the small splits first.
    for split in reversed(range(len(SPLITS))):
        rows = np.flatnonzero(splits == split)
        numbers = np.unique(patients[rows], return_inverse=True)[1]
        site[rows] = deal_patients(classes[rows], numbers, shares, held, rng)
        enough = settings.min_images if SPLITS[split] == "train" else 1
        if (np.bincount(site[rows][site[rows] != DROPPED], minlength=settings.sites) < enough).any():
            return None
    return PartitionPlan(site, held[:-1], draw, tuple(site_names(settings.sites)))


def patient_numbers(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """A number for each image's patient, in the order of their keys."""
    numbers = pd.factorize(frame["patient_key"], sort=True)[0].astype(np.int64)
    if (numbers < 0).any():
        raise UserError(f"manifest: {int((numbers < 0).sum())} images without patient_key. Prepare the store again.")
    return numbers


def split_numbers(frame: pd.DataFrame, patients: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number of each image's split in :data:`SPLITS`."""
    splits: npt.NDArray[np.int64] = pd.Index(SPLITS).get_indexer(pd.Index(frame["split"])).astype(np.int64)
    if (splits < 0).any():
        raise UserError(f"manifest: {int((splits < 0).sum())} images in no split. Prepare the store again.")
    pairs = np.unique(np.column_stack([patients, splits]), axis=0)
    torn = len(pairs) - len(np.unique(patients))
    if torn:
        raise UserError(f"manifest: {torn} patients stand in more than one split. Prepare the store again.")
    return splits


def _check_pool(
    positive: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.int64],
    splits: npt.NDArray[np.int64],
    settings: PartitionSettings,
) -> None:
    n_findings, present = positive.shape[1], int(positive.any(axis=0).sum())
    most = most_missing(present, settings.sites)
    if settings.missing_classes > most:
        detail = f"{present} of {n_findings} findings have a positive here and each must be held by one site"
        raise UserError(
            f"--missing-classes {settings.missing_classes}: with {settings.sites} sites at most {most} ({detail}). "
            "Lower it, or raise --sites."
        )
    for number, name in enumerate(SPLITS):
        n_patients = len(np.unique(patients[splits == number]))
        if n_patients < settings.sites:
            raise UserError(
                f"--sites {settings.sites}: the pool has {n_patients} patients in its {name} split, and each site "
                "needs one. Lower --sites, or prepare the pool with other --fractions."
            )
    n_train = int((splits == SPLITS.index("train")).sum())
    if n_train < settings.sites * settings.min_images:
        raise UserError(
            f"--sites {settings.sites}: the pool has {n_train} training images, too few for --min-images "
            f"{settings.min_images} at each. Lower one of the two."
        )
