"""What FLARE costs: its simulator beside a bare loop in one process, over the same rounds and updates.

    python benchmarks/flare_overhead.py [--json FILE] [--csv FILE] [--rounds 20] [--images 160]
        [--sites 4] [--backbone resnet18]

Sites of noise at 64 pixels. Rows:

- ``steady_state``: seconds a round once the federation runs, the median over all rounds but the first;
- ``startup``: seconds until the first round begins, processes and imports included: its end, less a steady round;
- ``weights``: how far apart the final weights are, as a share of how far training moved them, where both train with the
  same number of threads. A run in which this is not nothing has measured two different things, and fails;
- ``bytes_down``, ``bytes_up``: what a site gets and sends in a round, serialised as FLARE serialises it, beside the
  parameters and buffers alone.

Both sides may use the whole machine: the simulator a process a site with its share of the cores (at least one thread
each), the bare loop one process with a thread for every core. Where there are more sites than cores the site
processes take turns on them. Both do the same in a round: score the model at each site, sum up its features, train,
average.

Sums in another number of threads are rounded otherwise, and AdamW makes the most of such differences: after five rounds
of ResNet-18 one thread and two are 0.8 percent of the movement apart, without FLARE. So the weights are compared with a
second, untimed bare loop, with the threads of a site process.

Other work on the machine moves the times, and those of the loop with many threads the most: run it on a quiet machine.
The load at the start and all times of rounds stand among the settings of ``steady_state``, to judge a result by.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import save

CORES = os.cpu_count() or 1
#: Of the weights' distance from each other over the distance that training moved them, with the same threads.
TOLERANCE = 1e-5
#: Running processes a core, over which a result is not to be trusted.
BUSY = 0.25
SIZE = 64
TARGET = 1.5


def make_sites(folder: Path, sites: int, images: int, seed: int) -> None:
    """Write stores of noise in which findings are drawn at random, with ``site.yaml`` beside each."""
    import numpy as np
    import pandas as pd

    from nc_medfl.config import SiteConfig, save_site_config
    from nc_medfl.data.store import write_shard, write_store
    from nc_medfl.labels import load_vocabulary

    vocabulary = load_vocabulary("nih14")
    for number in range(sites):
        rng = np.random.default_rng((seed, number))
        name = f"site{number + 1:02d}"
        labels = (rng.random((images, len(vocabulary))) < 0.2).astype(np.float32)
        store = folder / name / "store"
        write_shard(store, 0, rng.integers(0, 256, (images, SIZE, SIZE)).astype(np.uint8))
        split = np.repeat(["train", "val", "test"], [images - 2 * (images // 5), images // 5, images // 5])
        frame = pd.DataFrame(
            {
                "sample_id": [f"{name}-{i}" for i in range(images)],
                "patient_key": [f"{name}-{i}" for i in range(images)],
                "site": name,
                "split": split,
                "pixel_sha256": [f"{name}-{i}" for i in range(images)],
                "shard": 0,
                "row": np.arange(images),
                "label:No Finding": (labels.sum(axis=1) == 0).astype(np.float32),
            }
            | {f"label:{finding}": labels[:, c] for c, finding in enumerate(vocabulary.findings)}
        )
        write_store(store, frame, vocabulary, size=SIZE, settings={}, counts={"ok": images}, settings_hash="benchmark")
        save_site_config(SiteConfig(name=name, store=Path("store"), device="cpu"), folder / name / "site.yaml")


def settings_of(content: dict[str, Any]) -> Any:
    """The job's settings."""
    from nc_medfl.config import JobSettings
    from nc_medfl.settings import parse

    return parse(JobSettings, content, where="benchmark")


def bare(content: dict[str, Any], sites: str, scratch: str, started: float) -> dict[str, Any]:
    """The rounds in this process: when each ended, in seconds since ``started``; leaves the final model."""
    import torch

    from nc_medfl.config import load_site_config
    from nc_medfl.federation.local import LocalFederation
    from nc_medfl.federation.site import site_files
    from nc_medfl.training.model import build_network

    settings = settings_of(content)
    configs = {name: load_site_config(path) for name, path in site_files(sites).items()}
    federation = LocalFederation(settings, configs, Path(scratch) / "state")
    ended, model = [], {}
    for done in federation.rounds():
        ended.append(time.time() - started)
        model = done.handed_out
    torch.save({"first": build_network(settings).state_dict(), "last": model}, Path(scratch) / "bare.pt")
    return {"ended": ended, "threads": torch.get_num_threads(), **exchanged(federation, model)}


def exchanged(federation: Any, model: dict[str, Any]) -> dict[str, int]:
    """Bytes that a site gets and sends in a round, and those of the model's numbers."""
    from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
    from nvflare.app_common.decomposers import common_decomposers
    from nvflare.app_common.utils.fl_model_utils import FLModelUtils
    from nvflare.app_opt.pt.decomposers import TensorDecomposer
    from nvflare.fuel.utils import fobs

    from nc_medfl.federation import keys
    from nc_medfl.federation.tasks import Task, do_task

    def size(params: Any, meta: dict[str, Any]) -> int:
        message = FLModel(params_type=ParamsType.FULL, params=params, meta=meta, current_round=0, total_rounds=1)
        return len(fobs.dumps(FLModelUtils.to_shareable(message)))

    fobs.register(TensorDecomposer)
    common_decomposers.register()
    worker = next(iter(federation.workers.values()))
    answer = do_task(worker, Task(keys.TASK_TRAIN, model, federation.settings.rounds, "0" * 32))
    numbers = sum(value.numel() * value.element_size() for value in model.values())
    down = size(model, {keys.RUN_ID: "0" * 32})
    return {"bytes_model": numbers, "bytes_down": down, "bytes_up": size(answer.params, answer.meta)}


def simulated(content: dict[str, Any], sites: Path, scratch: Path) -> tuple[list[float], Path]:
    """The rounds in FLARE's simulator: when each ended, in seconds, and the final model."""
    from nc_medfl.federation.environments import Federation, Simulator
    from nc_medfl.federation.site import site_files

    ended: list[float] = []
    started = time.time()

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "round":
            ended.append(time.time() - started)

    names = tuple(site_files(sites))
    federation = Federation(settings_of(content), scratch / "flare", sites=names, sites_folder=sites)
    results = Simulator().run(federation, note)
    return ended, results / "model_last.pt"


def in_child(content: dict[str, Any], sites: Path, scratch: Path, threads: int) -> dict[str, Any]:
    """:func:`bare` in a process of its own, started and imported afresh."""
    scratch.mkdir()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with multiprocessing.get_context("spawn").Pool(1) as child:
        found: dict[str, Any] = child.apply(bare, (content, str(sites), str(scratch), time.time()))
    return found


def lengths(ended: list[float]) -> list[float]:
    """Seconds of each round but the first, which has the start in it."""
    return [round(after - before, 2) for before, after in itertools.pairwise(ended)]


def apart(bare_file: Path, flare_file: Path) -> float:
    """The distance between both final models, over the distance from the first to the last."""
    import torch

    both = torch.load(bare_file, weights_only=True)
    flare = torch.load(flare_file, weights_only=True)["state_dict"]
    names = [name for name, value in both["last"].items() if value.is_floating_point()]
    between = sum(float((flare[n].double() - both["last"][n].double()).square().sum()) for n in names)
    moved = sum(float((both["last"][n].double() - both["first"][n].double()).square().sum()) for n in names)
    return float((between / moved) ** 0.5)


def row(name: str, value: float, unit: str, baseline: str, ratio: float, settings: dict[str, Any]) -> dict[str, Any]:
    """One result, rounded to what such a measurement is worth."""
    shown = {"value": float(f"{value:.4g}"), "ratio": float(f"{ratio:.4g}")}
    return {"name": name, **shown, "unit": unit, "baseline": baseline, "settings": settings}


def compare(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Run both, and put them side by side."""
    sites = scratch / "sites"
    make_sites(sites, arguments.sites, arguments.images, arguments.seed)
    content = {
        "name": "overhead",
        "rounds": arguments.rounds,
        "seed": arguments.seed,
        "network": {"backbone": arguments.backbone},
        "evaluation": {"resamples": 0},
    }
    load = os.getloadavg()[0]
    if load > BUSY * CORES:
        print(f"warning: {load:.2f} processes are running on {CORES} cores; the times mean little", file=sys.stderr)
    share = max(1, CORES // arguments.sites)
    loop = in_child(content, sites, scratch / "timed", CORES)
    os.environ["OMP_NUM_THREADS"] = str(share)
    ended, model = simulated(content, sites, scratch)
    alike = in_child(content, sites, scratch / "alike", share)
    settings = {
        **{key: getattr(arguments, key) for key in ("sites", "images", "rounds", "backbone", "seed")},
        **{"size": SIZE, "cores": CORES, "threads_bare": loop["threads"], "threads_a_site": share},
    }
    rounds, bare_rounds, alike_rounds = lengths(ended), lengths(loop["ended"]), lengths(alike["ended"])
    steady = [statistics.median(times) for times in (rounds, bare_rounds)]
    startup = [times[0] - each for times, each in zip((ended, loop["ended"]), steady, strict=True)]
    measured = {
        "target": TARGET,
        "load_before": round(load, 2),
        "rounds_simulator": rounds,
        "rounds_bare": bare_rounds,
        "rounds_bare_with_threads_of_a_site": alike_rounds,
    }
    difference = apart(scratch / "alike" / "bare.pt", model)
    size, same = loop["bytes_model"], f"{TOLERANCE:g} of what training moved"
    baseline = f"bare loop: {steady[1]:.4g} s/round"
    return [
        row("steady_state", steady[0], "s/round", baseline, steady[0] / steady[1], {**settings, **measured}),
        row("startup", startup[0], "s", f"bare loop: {startup[1]:.4g} s", startup[0] / startup[1], settings),
        row("weights", difference, "of movement", same, difference / TOLERANCE, {**settings, "target": 1}),
        *(
            row(name, loop[name], "bytes", f"the model's numbers: {size} bytes", loop[name] / size, settings)
            for name in ("bytes_down", "bytes_up")
        ),
    ]


def main() -> int:
    """Run, print a table, write JSON on request; fails where the weights differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results as a JSON list")
    parser.add_argument("--csv", type=Path, help="write the results as CSV")
    parser.add_argument("--rounds", type=int, default=20, help="two or more")
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--images", type=int, default=160, help="a site; three fifths of them to train on")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds: two or more, so that a round can be told from the start")
    with tempfile.TemporaryDirectory() as folder:
        results = compare(arguments, Path(folder))
    for entry in results:
        target = entry["settings"].get("target")
        verdict = "reached" if target is None or entry["ratio"] <= target else "NOT reached"
        print(
            f"{entry['name']:14} {entry['value']:10.4g} {entry['unit']:12} {entry['ratio']:7.3f} of {entry['baseline']}"
            + ("" if target is None else f" (target {target:g}: {verdict})")
        )
    save(results, arguments.json, arguments.csv)
    return 0 if next(entry for entry in results if entry["name"] == "weights")["ratio"] <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
