"""What the benchmarks share: versions that take turns, the clock, and what is written."""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def parser(description: str | None, *, repeats: int, threads: int = 2) -> argparse.ArgumentParser:
    """Options that every benchmark of training has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, help="write the results as a JSON list")
    made.add_argument("--csv", type=Path, help="write the results as CSV")
    made.add_argument("--repeats", type=int, default=repeats)
    made.add_argument("--threads", type=int, default=threads)
    made.add_argument(
        "--clock",
        choices=sorted(CLOCKS),
        default="wall",
        help="cpu: seconds of processor time, for a machine that does other things too",
    )
    return made


def take_turns(
    versions: dict[str, Callable[[], object]], repeats: int, clock: str = "wall", warm_up: int = 1
) -> dict[str, float]:
    """Median seconds of each version, run in turns."""
    now = CLOCKS[clock]
    found: dict[str, list[float]] = {name: [] for name in versions}
    for turn in range(repeats + warm_up):
        for name, run in versions.items():
            start = now()
            run()
            if turn >= warm_up:
                found[name].append(now() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def write(rows: list[Row], json_file: Path | None, csv_file: Path | None) -> None:
    """Print results, and write them where asked for."""
    for row in rows:
        target = row["settings"].get("target")
        beside = "" if row["ratio"] is None else f"  {row['ratio']:7.3f} of: {row['baseline']}"
        print(
            f"{row['name']:26} {row['value']:11.3f} {row['unit']:18}{beside}{f' (target {target})' if target else ''}"
        )
    if json_file:
        json_file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if csv_file:
        with csv_file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["name", "value", "unit", "baseline", "ratio", "target", "clock", "threads"])
            for row in rows:
                asked = row["settings"]
                writer.writerow(
                    [row[name] for name in ("name", "value", "unit", "baseline", "ratio")]
                    + [asked.get(name, "") for name in ("target", "clock", "threads")]
                )
