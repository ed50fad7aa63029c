"""Memory of server and clients over the rounds of a federation: it must not grow.

    python benchmarks/memory_rounds.py [--json FILE] [--csv FILE] [--rounds 50] [--env sim,poc] [--sites 2]

Sites of noise, the small network, training within FLARE's client process (in the field a trainer is started anew for
every task, and leaves nothing). After every round the resident memory (RSS) of each process of the federation is read.
The slope is the median over all pairs of rounds (Theil and Sen), in MB a round, without the first fifth of the rounds.
The ratio is the slope over a limit of 0.5 MB a round; a model kept a round would be 0.8 MB, in the network used here.

FLARE keeps a thread and a record of every finished stream for 65 seconds. In the field that is a round or less; here
it would be some sixty rounds, so that the number of threads would rise all the while. So it is told to keep them for
ten seconds (``NVFLARE_STREAMING_RETRY_TIMEOUT``; what is set outside counts). Its receipts of transfers stay for half
an hour, some kB a round and no model. ``--csv`` holds every reading.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from flare_overhead import make_sites

#: MB a round that a process may grow by.
LIMIT = 0.5
_ROLES = {
    "simulator_process": "simulator",
    "simulator_worker": "client",
    "server_train": "server",
    "client_train": "client",
    "runner_process": "server job",
    "worker_process": "client job",
}


def role_of(command: Sequence[str], sites: Sequence[str]) -> str | None:
    """What a process of FLARE is in the federation, by its command line; None for any other."""
    module = next((word for word in command if word.startswith(("nvflare.", "nc_medfl."))), "")
    role = _ROLES.get(module.rpartition(".")[2])
    if module.endswith("simulator.simulator"):
        role = "server"
    if role is None or "client" not in role:
        return role
    words = set(re.split(r"[ =/]", " ".join(command[1:])))
    names = [site for site in sites if f"uid={site}" in command or site in command]
    return f"{role} {(names or sorted(words & set(sites)) or ['?'])[0]}"


def readings(sites: Sequence[str]) -> dict[str, float]:
    """MB of each process below this one."""
    found: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            role = role_of(process.cmdline(), sites)
            if role is not None:
                found[role] = found.get(role, 0.0) + process.memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
    return found


def slope(points: Sequence[tuple[int, float]]) -> float:
    """MB a round, the median over pairs."""
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2))


def federate(env: str, arguments: argparse.Namespace, sites: Path, scratch: Path) -> dict[str, list[tuple[int, float]]]:
    """Rounds and MB by process."""
    from nc_medfl.config import JobSettings
    from nc_medfl.federation.environments import Federation, Poc, Simulator
    from nc_medfl.federation.site import site_files
    from nc_medfl.settings import parse

    names = tuple(site_files(sites))
    content = {
        "name": "memory",
        "rounds": arguments.rounds,
        "network": {"backbone": arguments.backbone},
        "evaluation": {"resamples": 0},
    }
    found: dict[str, list[tuple[int, float]]] = {}

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "round":
            for role, size in readings(names).items():
                found.setdefault(role, []).append((int(event["round"]), size))
            if event["round"] % 10 == 0:
                print(f"{env}: round {event['round']} of {event['rounds']}", file=sys.stderr)

    place = Simulator() if env == "sim" else Poc()
    settings = parse(JobSettings, content, where="benchmark")
    place.run(Federation(settings, scratch, sites=names, sites_folder=sites), note)
    return found


def main() -> int:
    """Run, print a table, write JSON and CSV on request; fails where memory grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results as a JSON list")
    parser.add_argument("--csv", type=Path, help="write every reading as CSV")
    parser.add_argument("--rounds", type=int, default=50, help="five or more")
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--images", type=int, default=40, help="a site; three fifths of them to train on")
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--env", default="sim,poc", help="where to run, with commas")
    arguments = parser.parse_args()
    os.environ.setdefault("NVFLARE_STREAMING_RETRY_TIMEOUT", "5")
    if arguments.rounds < 5:
        parser.error("--rounds: five or more, for a slope")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results, rows = [], []
    for env in arguments.env.split(","):
        with tempfile.TemporaryDirectory(prefix="memory") as folder:
            sites = Path(folder) / "sites"
            make_sites(sites, arguments.sites, arguments.images, 0)
            for path in sites.glob("*/site.yaml"):
                path.write_text(path.read_text() + "trainer: inline\n")
            found = federate(env, arguments, sites, Path(folder) / "flare")
        for role, points in sorted(found.items()):
            rows += [(env, role, number, round(size, 2)) for number, size in points]
            steady = [point for point in points if point[0] > arguments.rounds // 5]
            if len(steady) < 2:
                continue
            grows = slope(steady)
            about = {key: getattr(arguments, key) for key in ("sites", "images", "rounds", "backbone")}
            results.append(
                {
                    "name": f"{env}: {role}",
                    "value": round(grows, 4),
                    "unit": "MB a round",
                    "baseline": f"a limit of {LIMIT:g} MB a round",
                    "ratio": round(grows / LIMIT, 4),
                    "settings": {
                        **about,
                        "target": 1,
                        "first": round(steady[0][1], 1),
                        "last": round(steady[-1][1], 1),
                    },
                }
            )
    for entry in results:
        about, verdict = entry["settings"], "flat" if entry["ratio"] <= 1 else "GROWS"
        print(f"{entry['name']:28} {entry['value']:8.4f} MB a round, {about['first']} to {about['last']} MB: {verdict}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["env", "process", "round", "rss_mb"])
            writer.writerows(rows)
    return 0 if results and all(entry["ratio"] <= 1 for entry in results) else 1


if __name__ == "__main__":
    sys.exit(main())
