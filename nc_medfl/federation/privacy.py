"""What a site does to its numbers before they leave: withholding, clipping, noise, and the account of it.

The noise comes from the operating system's entropy and never from the job's seed, which the server knows: who can
draw the noise again can take it off. A site that adds noise is therefore not reproducible, by intent.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nc_medfl.config import PrivacySettings
from nc_medfl.federation.accounting import DP_SGD, STATISTICS, UPDATE, Ledger, Release, epsilon_of
from nc_medfl.federation.class_statistics import SiteStatistics
from nc_medfl.federation.policy import BUDGET, Refusal


def entropy() -> np.random.Generator:
    """A generator that nobody outside can wind back."""
    return np.random.default_rng(secrets.randbits(256))


def first_images(rows: npt.NDArray[np.int64], patients: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Rows with no more than so many images of a patient: the first of each, in the order given.

    Args:
        rows: of the manifest, ``[N]``.
        patients: a number for each row's patient, ``[N]``.
        most: images of one patient to keep.
    """
    order = np.argsort(patients, kind="stable")
    ranked = patients[order]
    starts = np.flatnonzero(np.diff(ranked, prepend=-1))
    rank = np.arange(len(ranked)) - np.repeat(starts, np.diff(starts, append=len(ranked)))
    kept: npt.NDArray[np.int64] = rows[np.sort(order[rank < most])]
    return kept


def statistics_sensitivity(n_classes: int, images_per_patient: int, *, feature_sums: bool) -> float:
    """The most that adding or removing one patient changes the class statistics, in L2.

    An image adds 1 to the count of positives or of negatives of each of C classes, and a vector of length 1 or less to
    one of the two sums: ``sqrt(C)`` for the counts, ``sqrt(C)`` for the sums, ``sqrt(2 C)`` for both, an image.
    """
    return images_per_patient * math.sqrt(n_classes * (2 if feature_sums else 1))


def noised_statistics(
    exact: SiteStatistics, deviation: float, n_images: int, generator: np.random.Generator
) -> SiteStatistics:
    """Add Gaussian noise to counts and feature sums.

    Args:
        exact: without noise, nothing withheld.
        deviation: standard deviation of the noise on each number.
        n_images: training images of the site, which it tells anyway.
        generator: draws the noise.

    Returns:
        Counts rounded, and brought back to what ``n_images`` can have; that tells no more than the noised ones.
    """
    counts = np.maximum(exact.counts + generator.normal(0.0, deviation, exact.counts.shape), 0.0)
    total = np.maximum(counts.sum(axis=0), 1.0)
    counts = np.floor(counts * np.minimum(1.0, n_images / total))
    if exact.feature_sums is None:
        return SiteStatistics(counts)
    sums = exact.feature_sums
    return SiteStatistics(counts, sums + generator.normal(0.0, deviation, sums.shape))


def withheld(statistics: SiteStatistics, min_positives: int) -> SiteStatistics:
    """Leave out, as NaN, every class with fewer positives than ``min_positives``."""
    few = statistics.counts[0] < min_positives
    counts = np.where(few, np.nan, statistics.counts)
    sums = statistics.feature_sums
    return SiteStatistics(counts, None if sums is None else np.where(few[:, None], np.nan, sums))


def clipped_update(
    trained: Mapping[str, Tensor], received: Mapping[str, Tensor], limit: float
) -> tuple[dict[str, Tensor], float]:
    """Scale what training changed, over all floating numbers of the model, down to an L2 norm.

    Args:
        trained: parameters and buffers after training.
        received: the same before it.
        limit: largest norm; a change below it stays as it is.

    Returns:
        The model to send (integer buffers untouched), and the norm before clipping.
    """
    floating = [name for name, value in trained.items() if value.is_floating_point()]
    changes = {name: trained[name].double() - torch.as_tensor(received[name]).double() for name in floating}
    norm = math.sqrt(sum(float(change.square().sum()) for change in changes.values()))
    if norm <= limit:
        return dict(trained), norm
    out = dict(trained)
    for name in floating:
        out[name] = (torch.as_tensor(received[name]).double() + changes[name] * (limit / norm)).to(trained[name].dtype)
    return out, norm


def noised_update(params: Mapping[str, Tensor], deviation: float, generator: np.random.Generator) -> dict[str, Tensor]:
    """Add Gaussian noise to every floating number of a model; integer buffers count batches and stay."""
    out: dict[str, Tensor] = {}
    for name, value in params.items():
        if not value.is_floating_point():
            out[name] = value
            continue
        noise = torch.as_tensor(generator.normal(0.0, deviation, tuple(value.shape)))
        noised = (value.double() + noise).to(value.dtype)
        # No variance is below 0; a network could not be run with one.
        out[name] = noised.clamp_min(0) if name.endswith("running_var") else noised
    return out


@dataclass
class Guard:
    """A site's privacy settings at work in one federation: what is protected, what was spent.

    Attributes:
        settings: the site's ``privacy``.
        store: folder of the site's store, which holds the ledger.
        run: the federation's id; empty outside of one.
        generator: draws the noise.
        counts: False where this process's numbers don't leave (all but the first of several devices).
    """

    settings: PrivacySettings
    store: Path
    run: str
    generator: np.random.Generator
    counts: bool = True

    def statistics(self, exact: SiteStatistics, n_images: int) -> SiteStatistics:
        """Noise and withhold class statistics, as the settings say; the noise is booked first.

        Args:
            exact: of the images that may enter.
            n_images: training images of the site.
        """
        noise = self.settings.statistics_noise
        if noise is not None:
            self.spend(Release(STATISTICS, noise.multiplier))
            reach = statistics_sensitivity(
                exact.counts.shape[1], noise.images_per_patient, feature_sums=exact.feature_sums is not None
            )
            exact = noised_statistics(exact, noise.multiplier * reach, n_images, self.generator)
        return withheld(exact, self.settings.min_positives)

    def update(self, trained: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clip and noise a trained model, as the settings say."""
        limit = self.settings.update_clip
        if limit is None:
            return dict(trained)
        clipped, _ = clipped_update(trained, received, limit)
        if not self.settings.update_noise:
            return clipped
        # Two clipped changes are at most twice the bound apart.
        self.spend(Release(UPDATE, self.settings.update_noise / 2))
        return noised_update(clipped, self.settings.update_noise * limit, self.generator)

    def spend(self, release: Release) -> None:
        """Book a release that is about to be made.

        Raises:
            Refusal: if the site's budget doesn't allow it.
        """
        if not self.counts:
            return
        ledger = Ledger(self.store)
        limit = self.settings.max_epsilon
        if limit is not None:
            before = [other for _, other in ledger.spent()]
            if epsilon_of([*before, release], self.settings.delta) > limit:
                raise Refusal(
                    BUDGET,
                    f"privacy.max_epsilon {limit:g} would be passed by another {release.mechanism}. "
                    "Take no more part with this store, or raise it if the site's policy allows.",
                )
        ledger.add(self.run, [release])

    def report(self) -> dict[str, Any]:
        """What the server is told: what is protected, and at which (epsilon, delta); empty without any of it."""
        settings = self.settings
        told: dict[str, Any] = {}
        if settings.update_clip is not None:
            told["update_clip"] = settings.update_clip
        if not (settings.protects_model or settings.protects_statistics):
            return told
        spent = Ledger(self.store).spent()
        mine = [release for run, release in spent if run == self.run]
        told["delta"] = settings.delta
        told["epsilon"] = _finite(epsilon_of(mine, settings.delta))
        told["epsilon_all_jobs"] = _finite(epsilon_of([release for _, release in spent], settings.delta))
        for mechanism in (STATISTICS, UPDATE, DP_SGD):
            some = [release for release in mine if release.mechanism == mechanism]
            if some:
                told[f"epsilon_{mechanism}"] = _finite(epsilon_of(some, settings.delta))
        told["model"] = settings.protects_model
        told["class_statistics"] = settings.protects_statistics or not settings.allow_class_statistics
        return told


def privacy_rows(site: str, told: Any) -> list[dict[str, Any]]:
    """A site's report as rows of ``privacy.csv``.

    Args:
        site: that sent it.
        told: what :meth:`Guard.report` gave there, as received: what is no such thing is left out.
    """
    if not isinstance(told, Mapping):
        return []
    known = (
        "update_clip",
        "delta",
        "epsilon",
        "epsilon_all_jobs",
        *(f"epsilon_{mechanism}" for mechanism in (STATISTICS, UPDATE, DP_SGD)),
        "model",
        "class_statistics",
    )
    rows = []
    for name in known:
        value = told.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            rows.append({"site": site, "quantity": name, "value": float(value), "reason": ""})
        elif name in told and value is None:
            rows.append({"site": site, "quantity": name, "value": None, "reason": "beyond 1,000,000: no protection"})
    return rows


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def describe(privacy: PrivacySettings) -> dict[str, Any]:
    """The settings in force that differ from the defaults, as JSON values, without a path."""
    return privacy.model_dump(mode="json", exclude_defaults=True, exclude={"audit"})
