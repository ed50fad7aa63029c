"""What each site holds: counts, prevalence, co-occurrence, and the distance of its labels from the federation's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.data.manifest import SPLITS, label_matrix
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError
from nc_medfl.labels import NO_FINDING

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SiteDescription:
    """Tables of what some sites hold.

    Attributes:
        findings: the sites' vocabulary, in order, without ``No Finding``.
        counts: one row a (site, split, finding), ``No Finding`` last: n_images, n_patients, n_positive,
            n_negative, n_unknown, prevalence (positives over annotated, NaN where none is annotated).
        cooccurrence: one row a (site, finding_a, finding_b): images positive for both, over all splits.
        sites: one row a site: n_images, n_patients, train, val, test (images), label_skew and
            total_variation against all sites together (NaN where undefined).
    """

    findings: tuple[str, ...]
    counts: pd.DataFrame
    cooccurrence: pd.DataFrame
    sites: pd.DataFrame

    def positives(self) -> pd.DataFrame:
        """Positive images by site (rows) and finding (columns, ``No Finding`` last), over all splits."""
        return self._matrix("n_positive")

    def prevalence(self) -> pd.DataFrame:
        """Positives over annotated by site and finding, over all splits; NaN where nobody annotated."""
        positive, negative = self._matrix("n_positive"), self._matrix("n_negative")
        known = positive + negative
        share: pd.DataFrame = positive / known.where(known > 0)
        return share

    def _matrix(self, column: str) -> pd.DataFrame:
        table = self.counts.pivot_table(index="site", columns="finding", values=column, aggfunc="sum")
        matrix: pd.DataFrame = table.loc[list(self.sites["site"]), [*self.findings, NO_FINDING]]
        return matrix


def label_skew(local: npt.ArrayLike, pooled: npt.ArrayLike) -> float:
    """Distance between a site's label prevalence and the federation's.

    Args:
        local: positives over annotated samples at one site, ``[C]``, NaN where nobody annotated.
        pooled: the same over all sites, ``[C]``.

    Returns:
        Mean absolute difference over the findings known to both, in [0, 1].

    Raises:
        ValueError: if the shapes differ or no finding is known to both.

    Example:
        >>> round(label_skew([0.5, float("nan")], [0.3, 0.1]), 4)
        0.2
    """
    a, b = np.asarray(local, dtype=np.float64), np.asarray(pooled, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    both = ~(np.isnan(a) | np.isnan(b))
    if not both.any():
        raise ValueError("no finding is known to both")
    return float(np.abs(a - b)[both].mean())


def total_variation(local: npt.ArrayLike, pooled: npt.ArrayLike) -> float:
    """Share of a site's labels that would have to be other ones to match the federation's mix.

    Half the sum of absolute differences of the two label distributions.

    Args:
        local: positives of each class at one site, ``[K]``.
        pooled: the same over all sites, ``[K]``.

    Returns:
        In [0, 1]: 0 is the same mix, 1 has no label in common.

    Raises:
        ValueError: if the shapes differ, a count is negative or NaN, or one of them has no positive at all.

    Example:
        >>> total_variation([5, 5, 0], [10, 10, 20])
        0.5
    """
    a, b = np.asarray(local, dtype=np.float64), np.asarray(pooled, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    if not ((a >= 0).all() and (b >= 0).all()):
        raise ValueError("counts must be 0 or more")
    if a.sum() == 0 or b.sum() == 0:
        raise ValueError("no positive label")
    return float(np.abs(a / a.sum() - b / b.sum()).sum() / 2)


def describe_sites(stores: Mapping[str, Store]) -> SiteDescription:
    """Count what the stores of some sites hold.

    Args:
        stores: by site name, one or more; the order is kept.

    Raises:
        UserError: if there is none, or they are labelled for different findings.
    """
    if not stores:
        raise UserError("no site to describe. Name one or more.")
    first = next(iter(stores.values())).vocabulary
    for name, store in stores.items():
        if store.vocabulary.findings != first.findings:
            raise UserError(
                f"{name}: labelled for '{store.vocabulary.name}', other sites for '{first.name}'. "
                "Prepare all of them with one vocabulary."
            )
    return describe_manifests({name: store.manifest for name, store in stores.items()}, first.findings)


def describe_manifests(frames: Mapping[str, pd.DataFrame], findings: tuple[str, ...]) -> SiteDescription:
    """As :func:`describe_sites`, from the manifests alone."""
    names = (*findings, NO_FINDING)
    counts: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for site, frame in frames.items():
        labels = label_matrix(frame, names).astype(np.float64)
        for split in SPLITS:
            here = (frame["split"] == split).to_numpy(dtype=bool)
            patients = int(frame.loc[here, "patient_key"].nunique())
            counts.extend(_count_rows(site, split, names, labels[here], patients))
        pairs.extend(_pair_rows(site, findings, labels[:, :-1]))
    description = SiteDescription(
        findings,
        pd.DataFrame(counts),
        pd.DataFrame(pairs, columns=["site", "finding_a", "finding_b", "n"]),
        pd.DataFrame({"site": list(frames)}),
    )
    return SiteDescription(findings, description.counts, description.cooccurrence, _site_rows(description, frames))


def _count_rows(site: str, split: str, names: tuple[str, ...], labels: Floats, patients: int) -> list[dict[str, Any]]:
    positive, negative = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    return [
        {
            "site": site,
            "split": split,
            "finding": name,
            "n_images": len(labels),
            "n_patients": patients,
            "n_positive": int(p),
            "n_negative": int(n),
            "n_unknown": len(labels) - int(p) - int(n),
            "prevalence": p / (p + n) if p + n else float("nan"),
        }
        for name, p, n in zip(names, positive, negative, strict=True)
    ]


def _pair_rows(site: str, findings: tuple[str, ...], labels: Floats) -> list[dict[str, Any]]:
    positive = (labels == 1).astype(np.int64)
    together = positive.T @ positive
    return [
        {"site": site, "finding_a": findings[a], "finding_b": findings[b], "n": int(together[a, b])}
        for a, b in combinations(range(len(findings)), 2)
    ]


def _site_rows(description: SiteDescription, frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    findings = list(description.findings)
    counts = description.counts
    positives, prevalence = description.positives(), description.prevalence()
    pooled_positives = positives.sum()
    known = pooled_positives + counts.groupby("finding")["n_negative"].sum()
    pooled = (pooled_positives / known.where(known > 0))[findings]
    images = counts.drop_duplicates(["site", "split"]).set_index(["site", "split"])["n_images"]
    rows: list[dict[str, Any]] = []
    for site, frame in frames.items():
        row: dict[str, Any] = {"site": site, "n_images": len(frame), "n_patients": int(frame["patient_key"].nunique())}
        row.update({split: int(images[site, split]) for split in SPLITS})
        local = prevalence.loc[site, findings]
        row["label_skew"] = label_skew(local, pooled) if (local.notna() & pooled.notna()).any() else float("nan")
        mix = positives.loc[site]
        row["total_variation"] = total_variation(mix, pooled_positives) if mix.sum() else float("nan")
        rows.append(row)
    table: pd.DataFrame = pd.DataFrame(rows)
    return table
