"""The AUC bootstrap beside a loop over scikit-learn's roc_auc_score.

    python benchmarks/metrics.py [--json FILE] [--csv FILE] [--images 100000] [--findings 14] [--resamples 1000]

The loop is timed on some resamples (--loop) and its time scaled up, and its numbers must equal ours.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from timing import save

from nc_medfl.metrics.bootstrap import bootstrap_auc, patient_weights

#: Under 30 s where the loop takes about 440.
TARGET = 0.068


def main() -> None:
    """Time both, print, write JSON and CSV on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results as a JSON list")
    parser.add_argument("--csv", type=Path, help="write the results as CSV")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--findings", type=int, default=14)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=5, help="resamples that the loop is timed on")
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = (rng.random((a.images, a.findings)) < 0.05).astype(float)
    scores = 1 / (1 + np.exp(-rng.normal(labels, 1)))
    patients = np.arange(a.images) // 2
    start = time.perf_counter()
    ours = bootstrap_auc(scores, labels, patients, resamples=a.resamples, threads=a.threads)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    loop = min(a.loop, a.resamples)
    weights = next(patient_weights(patients, loop, 0, loop)).astype(int)
    start = time.perf_counter()
    theirs = []
    for b in range(loop):
        rows = np.repeat(np.arange(a.images), weights[:, b])
        theirs.append([roc_auc_score(labels[rows, c], scores[rows, c]) for c in range(a.findings)])
    baseline = (time.perf_counter() - start) * a.resamples / loop
    np.testing.assert_allclose(ours[:loop], theirs, atol=1e-9)
    about = {"images": a.images, "findings": a.findings, "resamples": a.resamples, "threads": a.threads}
    entry = {
        "name": "auc_bootstrap",
        "value": round(seconds, 2),
        "unit": "s",
        "baseline": f"loop over roc_auc_score: {baseline:.1f} s, from {loop} resamples",
        "ratio": round(seconds / baseline, 4),
        "settings": {**about, "peak_mib": round(peak), "target": TARGET},
    }
    print(
        f"auc_bootstrap {seconds:.2f} s, {entry['baseline']}, ratio {entry['ratio']} (target {TARGET}), {peak:.0f} MiB"
    )
    save([entry], a.json, a.csv)


if __name__ == "__main__":
    main()
