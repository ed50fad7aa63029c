"""Seconds and memory of the server's aggregator, by itself, over 2 to 200 sites.

    python benchmarks/aggregator.py [--json FILE] [--csv FILE] [--sites 2,20,200] [--robust-sites 5,20]

Synthetic updates of a ResNet-50 network (14 findings): full float32 models a small step from the start, made one at a
time as they would arrive. Two rounds: the first waits on disk until it can be judged, the second is added up on
arrival. Peak memory is that of a fresh process for each number of sites, less what it holds before the first update
(network, libraries, the one update that is being made). Ratios: memory over that of 2 sites (200 sites must cost what
2 cost), seconds an update over those of a plain float64 running sum of the same updates in the same process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from nvflare.app_common.abstract.fl_model import FLModel
from timing import save

from nc_medfl import __version__
from nc_medfl.config import JobSettings
from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import NCAwareAggregator
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.labels import load_vocabulary
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network, fingerprints

C = 14
MIB = 2**20


class Quiet(NCAwareAggregator):
    """The aggregator without FLARE's log, for which there is no context here."""

    def warning(self, message: str) -> None:
        """Fail: no synthetic update should be refused."""
        raise SystemExit(message)


class Peak:
    """Largest resident memory of this process, in MiB, while it is open; sampled every 5 ms."""

    def __enter__(self) -> Peak:
        self._process, self._stop = psutil.Process(), threading.Event()
        self.before = self.value = self._process.memory_info().rss / MIB
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.value = max(self.value, self._process.memory_info().rss / MIB)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def settings_of(backbone: str, robust: str) -> JobSettings:
    """A job of the method itself, class-aware, which is the costliest weighting."""
    content = {"network": {"backbone": backbone}, "aggregation": {"weighting": "class_aware", "robust": robust}}
    return parse(JobSettings, content, where="benchmark")


class Sites:
    """Makes the updates, each into the same memory."""

    def __init__(self, settings: JobSettings) -> None:
        network = build_network(settings)
        self.start = {name: value.clone() for name, value in network.state_dict().items()}
        self._params = {name: value.clone() for name, value in self.start.items()}
        self._noise = 1e-3 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
        dim = network.frame.shape[1]
        sums = np.random.default_rng(0).normal(size=(2, C, dim))
        self._meta: dict[str, Any] = {
            keys.FINGERPRINTS: {
                **fingerprints(network, load_vocabulary(settings.vocabulary)),
                "preparation": "0" * 64,
                "package": __version__,
            },
            keys.N_SAMPLES: 5000,
            keys.COUNTS: np.tile([[100.0], [4000.0]], (1, C)),
            keys.FEATURE_SUMS: 50 * sums / np.linalg.norm(sums, axis=-1, keepdims=True),
        }

    def update(self, number: int) -> FLModel:
        """The update of a site: the start, and noise from its own place in a long row of it."""
        for place, (name, value) in enumerate(self.start.items()):
            if not value.is_floating_point():
                continue
            flat, target = value.reshape(-1), self._params[name].reshape(-1)
            for begin in range(0, len(flat), len(self._noise) // 2):
                part = flat[begin : begin + len(self._noise) // 2]
                shift = (7919 * (number + 1) + 104729 * place + begin) % (len(self._noise) // 2)
                torch.add(part, self._noise[shift : shift + len(part)], out=target[begin : begin + len(part)])
        return FLModel(params=dict(self._params), meta={**self._meta, "client_name": f"site-{number:04d}"})


def plain_sum(sites: Sites, count: int) -> float:
    """Seconds an update of what one writes first: one float64 sum, no check, no class, no order."""
    total = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in sites.start.items()}
    spent = 0.0
    for update in updates(sites, count):
        start = time.perf_counter()
        for name, value in update.params.items():
            total[name] += value.double() * 5000
        spent += time.perf_counter() - start
    return spent / count


def updates(sites: Sites, count: int) -> Iterator[FLModel]:
    """So many updates, one at a time."""
    for number in range(count):
        yield sites.update(number)


def one_round(aggregator: Quiet, sites: Sites, count: int) -> tuple[float, float]:
    """Seconds of a round, without those that the making of updates takes, and peak MiB above the start."""
    aggregator.reset_stats()
    aggregator.set_previous(sites.start)
    spent = 0.0
    with Peak() as peak:
        for update in updates(sites, count):
            start = time.perf_counter()
            aggregator.accept_model(update)
            spent += time.perf_counter() - start
        start = time.perf_counter()
        aggregator.statistics_rows()
        aggregator.aggregate_model()
        spent += time.perf_counter() - start
    if len(aggregator.accepted) != count:
        raise SystemExit("a synthetic update was refused")
    return spent, peak.value - peak.before


def measure(backbone: str, count: int, robust: str) -> dict[str, float]:
    """Two rounds in this process; called in a fresh one."""
    torch.set_num_threads(1)
    settings = settings_of(backbone, robust)
    sites = Sites(settings)
    sites.update(0)
    aggregator = Quiet(to_arguments(settings))
    first, first_peak = one_round(aggregator, sites, count)
    later, later_peak = (first, first_peak) if robust != "none" else one_round(aggregator, sites, count)
    plain = plain_sum(sites, min(count, 10))
    size = sum(v.numel() * v.element_size() for v in sites.start.values()) / MIB
    return {
        "first_seconds": first,
        "later_seconds": later,
        "peak": max(first_peak, later_peak),
        "plain": plain,
        "size": size,
    }


def row(name: str, value: float, unit: str, baseline: str, ratio: float, settings: dict[str, Any]) -> dict[str, Any]:
    """One result, rounded to what such a measurement is worth."""
    shown = {"value": float(f"{value:.4g}"), "ratio": float(f"{ratio:.4g}")}
    return {"name": name, **shown, "unit": unit, "baseline": baseline, "settings": settings}


def rows_of(found: dict[int, dict[str, float]], backbone: str, robust: str) -> list[dict[str, Any]]:
    """Three rows for each number of sites."""
    least = min(found)
    rows = []
    kind = "" if robust == "none" else f"_{robust}"
    for count, got in found.items():
        about = {"backbone": backbone, "update_mb": round(got["size"], 1), "sites": count, "robust": robust}
        ratio = got["peak"] / found[least]["peak"]
        name = f"aggregator{kind}_{count}_sites"
        rows.append(row(f"{name}_memory", got["peak"], "MB", f"{least} sites", ratio, {**about, "target": 1.1}))
        for which in ("first", "later") if robust == "none" else ("later",):
            seconds = got[f"{which}_seconds"] / count
            label = f"{name}_{which}_round" if robust == "none" else f"{name}_round"
            ratio = seconds / got["plain"]
            rows.append(row(label, seconds, "s/update", "plain float64 sum", ratio, {**about, "target": None}))
    return rows


def main() -> None:
    """Run all, print a table, write JSON and CSV on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results as a JSON list")
    parser.add_argument("--csv", type=Path, help="write the results as CSV")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--sites", default="2,20,200", help="numbers of sites for the mean, with commas")
    parser.add_argument("--robust-sites", default="5,20", help="numbers of sites for the median; empty for none")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for robust, counts in (("none", arguments.sites), ("median", arguments.robust_sites)):
        found = {}
        for count in map(int, filter(None, counts.split(","))):
            # A process of its own for each, since memory that was once taken is not all given back.
            with multiprocessing.get_context("spawn").Pool(1) as child:
                found[count] = child.apply(measure, (arguments.backbone, count, robust))
        results += rows_of(found, arguments.backbone, robust) if found else []
    for entry in results:
        target = entry["settings"]["target"]
        verdict = "" if target is None else f" (target {target:g}: {'' if entry['ratio'] <= target else 'NOT '}reached)"
        print(
            f"{entry['name']:38} {entry['value']:8.4g} {entry['unit']:9} {entry['ratio']:6.3f} of "
            f"{entry['baseline']}{verdict}"
        )
    save(results, arguments.json, arguments.csv)


if __name__ == "__main__":
    main()
