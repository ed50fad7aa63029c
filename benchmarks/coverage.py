"""How often a 95% interval of the AUC holds the truth, by simulation.

    python benchmarks/coverage.py [--json FILE] [--csv FILE] [--draws 2000] [--resamples 1000] [--positives 10,50]

Scores of positives are N(1, 1) and of negatives N(0, 1), so the AUC is Phi(1 / sqrt 2). There are as many negatives as
positives. Each draw is a fresh sample with a bootstrap of its own. The ratio is the share that misses over the 5% that
should, so 1 is exact and 0.6 to 1.4 are 97% to 93%.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import norm
from timing import save

from nc_medfl.metrics.bootstrap import bca_intervals, bootstrap_auc, percentile_intervals
from nc_medfl.metrics.delong import delong

TRUTH = float(norm.cdf(1 / np.sqrt(2)))


def cover(positives: int, draws: int, resamples: int, seed: int) -> dict[str, float]:
    """The share of draws whose interval holds the truth, by kind of interval."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([1.0, 0.0], positives)
    inside = dict.fromkeys(("percentile", "bca", "delong"), 0)
    patients = np.arange(2 * positives)
    for draw in range(draws):
        scores = norm.cdf(rng.normal(labels, 1))
        values = bootstrap_auc(
            scores[:, None], labels[:, None], patients, resamples=resamples, seed=seed * 1_000_003 + draw, threads=1
        )
        auc, covariance = delong([scores], labels)
        half = 1.96 * np.sqrt(covariance[0, 0])
        plain = percentile_intervals(values)
        better = bca_intervals(values, auc, _left_out(scores, labels))
        ends = {
            "percentile": (plain.low[0], plain.high[0]),
            "bca": (better.low[0], better.high[0]),
            "delong": (auc[0] - half, auc[0] + half),
        }
        for kind, (low, high) in ends.items():
            inside[kind] += bool(low <= TRUTH <= high)
    return {kind: count / draws for kind, count in inside.items()}


def _left_out(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The AUC without each image, from which pairs it wins."""
    high, low = scores[labels == 1], scores[labels == 0]
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    p, n, total = len(high), len(low), wins.sum()
    without = [(total - wins.sum(axis=1)) / ((p - 1) * n), (total - wins.sum(axis=0)) / (p * (n - 1))]
    return np.concatenate(without)[:, None]


def main() -> None:
    """Simulate, print, write JSON and CSV on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results as a JSON list")
    parser.add_argument("--csv", type=Path, help="write the results as CSV")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--positives", default="10,25,50,100", help="of as many negatives, with commas")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    results = []
    for positives in map(int, a.positives.split(",")):
        for kind, share in cover(positives, a.draws, a.resamples, a.seed).items():
            print(f"{positives:5} of each label  {kind:10}  {share:.4f}")
            results.append(
                {
                    "name": f"coverage_{kind}_{positives}",
                    "value": share,
                    "unit": "share of intervals that hold the truth",
                    "baseline": "0.95",
                    "ratio": round((1 - share) / 0.05, 4),
                    "settings": {
                        "draws": a.draws,
                        "resamples": a.resamples,
                        "seed": a.seed,
                        "target": 1.4 if positives >= 50 else None,
                    },
                }
            )
    save(results, a.json, a.csv)


if __name__ == "__main__":
    main()
