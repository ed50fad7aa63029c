"""What a site has given away of its training split, as (epsilon, delta), over rounds and jobs.

One patient more or less is what counts (add or remove a patient with all images). Plain Gaussian releases are
composed exactly: T of them with multipliers z_i are one with ``mu = sqrt(sum 1 / z_i^2)`` (Dong, Roth, Su, *Gaussian
Differential Privacy*, 2022), whose epsilon follows from Balle and Wang, *Improving the Gaussian Mechanism for
Differential Privacy*, ICML 2018. Once DP-SGD is among them, all are composed as Rényi differential privacy by Opacus.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy.optimize import brentq
from scipy.special import log_ndtr

from nc_medfl.data.private import open_private, private_folder
from nc_medfl.errors import UserError

LEDGER = "privacy_ledger.jsonl"
STATISTICS, UPDATE, DP_SGD = "class_statistics", "update_noise", "dp_sgd"
#: Told instead of an epsilon that is beyond any meaning.
_LARGEST = 1e6


@dataclass(frozen=True)
class Release:
    """Noise that was added to something computed from the training split.

    Attributes:
        mechanism: ``class_statistics``, ``update_noise`` or ``dp_sgd``.
        multiplier: standard deviation of the noise over the most that one patient can change the result, in L2.
        sample_rate: chance of a patient to be in it; 1 for everybody.
        steps: how often it was done.
    """

    mechanism: str
    multiplier: float
    sample_rate: float = 1.0
    steps: int = 1


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Smallest delta at an epsilon for a Gaussian of sensitivity over deviation ``mu`` (Balle and Wang, Theorem 8)."""
    if mu == 0:
        return 0.0
    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    # exp(first) - exp(second), without losing the difference of two small numbers
    return -math.exp(first) * math.expm1(min(second - first, 0.0))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon at a delta for a Gaussian of sensitivity over deviation ``mu``."""
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    if gaussian_delta(mu, _LARGEST) > delta:
        return math.inf
    return float(brentq(lambda epsilon: gaussian_delta(mu, epsilon) - delta, 0.0, _LARGEST, xtol=1e-9))


def epsilon_of(releases: Iterable[Release], delta: float) -> float:
    """Epsilon of several releases together; 0 for none, infinite where it is beyond 1,000,000.

    Raises:
        UserError: if there was DP-SGD and Opacus is not installed.
    """
    releases = list(releases)
    if all(release.sample_rate >= 1 for release in releases):
        return gaussian_epsilon(math.sqrt(sum(r.steps / r.multiplier**2 for r in releases)), delta)
    try:
        from opacus.accountants.analysis import rdp
        from opacus.accountants.rdp import RDPAccountant
    except ImportError as error:
        raise UserError(
            "privacy.dp_sgd: Opacus is not installed. Install it with: pip install -c constraints.txt '.[dp]'"
        ) from error
    orders = [*RDPAccountant.DEFAULT_ALPHAS, *range(64, 512, 16)]
    cost = sum(
        rdp.compute_rdp(q=r.sample_rate, noise_multiplier=r.multiplier, steps=r.steps, orders=orders) for r in releases
    )
    epsilon, _ = rdp.get_privacy_spent(orders=orders, rdp=cost, delta=delta)
    return float(epsilon)


class Ledger:
    """Every release of a store's training split, in ``site_private/privacy_ledger.jsonl``: append-only, mode 0600.

    It outlives jobs and processes, since a patient's protection is spent by all of them together. A release is written
    down before it is made, so a crash can only count too much.

    Args:
        store: the store's folder.
    """

    def __init__(self, store: Path) -> None:
        self._store = store

    def spent(self) -> list[tuple[str, Release]]:
        """Run and release of every entry, oldest first.

        Raises:
            UserError: if the file was damaged: what was spent is then unknown.
        """
        path = private_folder(self._store) / LEDGER
        if not path.is_file():
            return []
        try:
            entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [(str(entry.pop("run")), Release(**entry)) for entry in entries]
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path}: damaged, so what was spent is unknown. Restore it from a backup.") from error

    def add(self, run: str, releases: Sequence[Release]) -> None:
        """Write releases down, on the disk when this returns."""
        lines = "".join(json.dumps({"run": run, **asdict(release)}, sort_keys=True) + "\n" for release in releases)
        with open_private(private_folder(self._store) / LEDGER, append=True) as stream:
            stream.write(lines.encode())
            stream.flush()
            os.fsync(stream.fileno())
