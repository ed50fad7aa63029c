"""The input pipeline: how fast, and in how much memory.

    python benchmarks/loader.py [--json FILE] [--csv FILE] [--repeats 5] [--threads 1] [--rows 1000000]

- Batches of 32 at 224 px with the training transforms, of a store of 256 px, beside a step of forward and backward of
  ResNet-18 on such a batch, in the faster of float32 and mixed precision here; on one core, in turns.
- The memory of a process that goes over a store again and again, by epoch: what it holds of its own (anonymous pages)
  after the last epoch, beside the second.
- A manifest of 1,000,000 images: seconds and megabytes to open it as a site does that trains, in a process of its own,
  beside 2 seconds and 500 MB. The latter is the process's peak, with Python and all libraries in it.

Ratio is our cost over the baseline's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from timing import Row, parser, take_turns, write
from training import BATCH, bare, job, make_store

from nc_medfl.data.dataset import make_loader
from nc_medfl.data.store import INFO, Store, write_json, write_manifest
from nc_medfl.data.transforms import AugmentationSettings
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import build_network
from nc_medfl.training.precision import try_out

SIDE, EPOCHS, PART = 224, 6, 100_000
SECONDS, MEGABYTES = 2.0, 500.0
_OPEN = """
import json, sys, time
from nc_medfl.data.store import open_store
from nc_medfl.federation.site import needed_for_training
clock = time.process_time if sys.argv[2] == "cpu" else time.perf_counter
start = clock()
store = open_store(sys.argv[1], needed_for_training)
taken = clock() - start
peak = next(float(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({"seconds": taken, "megabytes": peak, "rows": len(store)}))
"""


def go_over(store: Store, epoch: int) -> int:
    """Every training batch of an epoch; the number of images."""
    batches = make_loader(
        store, "train", batch_size=BATCH, training=True, size=SIDE, augmentation=AugmentationSettings(), epoch=epoch
    )
    return sum(len(batch["image"]) for batch in batches)


def rate(store: Store, repeats: int, clock: str) -> Row:
    """Seconds of a batch, beside those of the backbone's step on it."""
    network = build_network(job("float32"))
    fastest = try_out(network, (BATCH, 1, SIDE, SIDE), time.process_time if clock == "cpu" else None).chosen
    batches = len(store) // BATCH
    versions = {"ours": lambda: go_over(store, 0), "bare": bare(SIDE, 1, fastest)}
    seconds = take_turns(versions, repeats, clock)
    ours = seconds["ours"] / batches
    return {
        "name": f"loader_{SIDE}",
        "value": round(BATCH / ours, 1),
        "unit": "images a second",
        "baseline": f"a step of ResNet-18 in {fastest}",
        "ratio": round(ours / seconds["bare"], 4),
        "settings": {
            "baseline_images_a_second": round(BATCH / seconds["bare"], 1),
            "threads": torch.get_num_threads(),
            "clock": clock,
            "target": 0.25,
        },
    }


def memory(store: Store) -> Row:
    """Own memory after the last of some epochs beside that after the second."""
    held = []
    for epoch in range(EPOCHS):
        go_over(store, epoch)
        held.append(_own_megabytes())
    return {
        "name": "loader_memory",
        "value": round(held[-1] - held[1], 2),
        "unit": f"MB in {EPOCHS - 2} epochs",
        "baseline": "own memory after the second epoch",
        "ratio": round(held[-1] / held[1], 4),
        "settings": {"megabytes": [round(value, 1) for value in held], "images": len(store), "target": 1.02},
    }


def _own_megabytes() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return float(line.split()[1]) / 1024
    raise SystemExit("this system doesn't tell a process's anonymous memory")


def manifest_parts(rows: int) -> Iterator[pd.DataFrame]:
    """A manifest as preparation writes it, in parts."""
    rng = np.random.default_rng(0)
    findings = load_vocabulary("nih14").findings
    for start in range(0, rows, PART):
        count = min(PART, rows - start)
        at = np.arange(start, start + count)
        digits = rng.bytes(32 * count).hex()
        hashes = [digits[64 * k : 64 * k + 64] for k in range(count)]
        columns: dict[str, object] = {
            "sample_id": [text[:32] for text in hashes],
            "patient_key": [text[32:] for text in hashes],
            "study_key": [text[16:48] for text in hashes],
            "source_sha256": hashes,
            "pixel_sha256": [text[::-1] for text in hashes],
            "shard": at // 4096,
            "row": at % 4096,
            "split": rng.choice(["train", "val", "test"], count),
            "view": rng.choice(["PA", "AP"], count),
            "sex": rng.choice(["F", "M"], count),
            "age": rng.integers(18, 90, count).astype(float),
            "settings_hash": "0" * 64,
        }
        for name in findings:
            columns[f"label:{name}"] = (rng.random(count) < 0.1).astype(np.float32)
            columns[f"raw:{name}"] = "0"
        yield pd.DataFrame({**columns, "site": "bench", "modality": "DX", "voi_source": "window", "burned_in": "no"})


def opening(rows: int, clock: str) -> list[Row]:
    """Seconds and megabytes to open a large manifest."""
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = load_vocabulary("nih14")
        write_manifest(Path(folder), manifest_parts(rows), vocabulary)
        known = {"name": vocabulary.name, "findings": list(vocabulary.findings)}
        write_json(Path(folder) / INFO, {"schema_version": 1, "vocabulary": known, "size": 256, "settings_hash": ""})
        command = [sys.executable, "-c", _OPEN, folder, clock]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    settings = {"rows": found["rows"], "clock": clock, "target": 1.0}
    return [
        {
            "name": f"manifest_{name}",
            "value": round(found[name], 3),
            "unit": unit,
            "baseline": f"{limit:g} {unit}",
            "ratio": round(found[name] / limit, 4),
            "settings": settings,
        }
        for name, unit, limit in (("seconds", "seconds", SECONDS), ("megabytes", "MB", MEGABYTES))
    ]


def measure(arguments: argparse.Namespace) -> list[Row]:
    """All rows."""
    rows = opening(arguments.rows, arguments.clock)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), 8 * BATCH)
        return [rate(store, arguments.repeats, arguments.clock), memory(store), *rows]


def main() -> None:
    """Run all, print, write JSON and CSV on request."""
    options = parser(__doc__, repeats=5, threads=1)
    options.add_argument("--rows", type=int, default=1_000_000, help="of the large manifest")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    write(measure(arguments), arguments.json, arguments.csv)


if __name__ == "__main__":
    main()
