"""What half-precision transfer saves, and what it costs in the result, beside float32 in the same run.

    python benchmarks/transfer.py [--json FILE] [--csv FILE] [--rounds 8] [--patients 60] [--seeds 0,1]

Synthetic hospitals at 64 px, the small network. The sites train in turn in this process, without FLARE; what is sent
goes through the functions of the filters, both ways. Bytes are those of the tensors of a model, one way. The result is
the mean over sites of the macro AUC on validation, of the last model, the mean over seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from timing import save
from torch import Tensor

from nc_medfl.cli.demo import _hospitals
from nc_medfl.config import JobSettings, load_site_config
from nc_medfl.federation.averaging import SiteUpdate, average
from nc_medfl.federation.site import site_files
from nc_medfl.federation.wire import TYPES, from_wire, payload_bytes, to_wire
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.networks import class_parameters
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network

Model = dict[str, Tensor]


def federate(workers: Mapping[str, SiteWorker], settings: JobSettings, transfer: str) -> tuple[float, Model]:
    """Train; give the mean macro AUC on validation of the last model, and that model."""
    network = build_network(settings)
    model: Model = {name: value.clone() for name, value in network.state_dict().items()}
    for number in range(settings.rounds):
        updates = []
        for name, worker in workers.items():
            local = worker.train(from_wire(to_wire(model, transfer), transfer), number)
            received = from_wire(to_wire(local.params, transfer), transfer)
            updates.append(SiteUpdate(name, received, local.n_samples, local.before.statistics))
        model = average(model, updates, weighting="uniform", class_axes=class_parameters(network))
    scores = []
    for worker in workers.values():
        rows = worker.validate(from_wire(to_wire(model, transfer), transfer)).rows
        scores += [row["value"] for row in rows if (row["finding"], row["metric"]) == ("macro", "auc")]
    return float(np.mean([score for score in scores if score is not None])), model


def main() -> None:
    """Run all, print a table, write JSON and CSV on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results as a JSON list")
    parser.add_argument("--csv", type=Path, help="write the results as CSV")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--patients", type=int, default=60, help="a hospital")
    parser.add_argument("--seeds", default="0,1", help="of weights and shuffles, with commas")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    found: dict[str, list[float]] = {transfer: [] for transfer in TYPES}
    size = {}
    with tempfile.TemporaryDirectory() as folder:
        _hospitals(Path(folder), arguments.patients, 0)
        files = site_files(Path(folder) / "sites")
        for seed in seeds:
            content = {
                "rounds": arguments.rounds,
                "seed": seed,
                "network": {"backbone": "small"},
                "training": {"lr": 1e-3, "local_epochs": 2},
            }
            settings = parse(JobSettings, content, where="benchmark").for_sites()
            workers = {name: SiteWorker(settings, load_site_config(path)) for name, path in files.items()}
            for transfer, scores in found.items():
                score, model = federate(workers, settings, transfer)
                scores.append(score)
                size[transfer] = payload_bytes(to_wire(model, transfer))
    results: list[dict[str, Any]] = []
    for transfer, scores in found.items():
        about = {
            "rounds": arguments.rounds,
            "patients_a_site": arguments.patients,
            "sites": len(files),
            "seeds": seeds,
            "each": [round(score, 4) for score in scores],
            "target": None,
        }
        auc, base = float(np.mean(scores)), float(np.mean(found["float32"]))
        share = size[transfer] / size["float32"]
        results.append(
            {
                "name": f"transfer_{transfer}_bytes",
                "value": size[transfer],
                "unit": "bytes a model",
                "baseline": "float32",
                "ratio": round(share, 4),
                "settings": {**about, "target": None if transfer == "float32" else 0.51},
            }
        )
        results.append(
            {
                "name": f"transfer_{transfer}_macro_auc",
                "value": round(auc, 4),
                "unit": "AUC on validation",
                "baseline": "float32",
                # Lower is better, so what is missing to 1 is compared.
                "ratio": round((1 - auc) / (1 - base), 4),
                "settings": about,
            }
        )
    for entry in results:
        each = entry["settings"]["each"] if "auc" in entry["name"] else ""
        print(f"{entry['name']:28} {entry['value']:>10} {entry['unit']:18} {entry['ratio']:6.3f} of float32 {each}")
    save(results, arguments.json, arguments.csv)


if __name__ == "__main__":
    main()
