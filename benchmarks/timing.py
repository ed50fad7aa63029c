"""What the benchmarks share: versions that take turns, the clock, and what is written.

As a script it puts the CSV files of some benchmarks together, and into the table of docs/results/performance.md:

    python benchmarks/timing.py build/bench-head.csv build/bench-training.csv build/bench-loader.csv
"""

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
    save(rows, json_file, csv_file, ("target", "clock", "threads"))


def save(
    rows: list[Row], json_file: Path | None, csv_file: Path | None, settings: tuple[str, ...] = ("target",)
) -> None:
    """Write results where asked for; a row of the CSV holds these of its settings too."""
    if json_file:
        json_file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if csv_file:
        result = ("name", "value", "unit", "baseline", "ratio")
        with csv_file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([*result, *settings])
            for row in rows:
                writer.writerow([row[name] for name in result] + [row["settings"].get(name, "") for name in settings])


RESULTS = Path(__file__).parents[1] / "docs" / "results"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def main() -> None:
    """Put results together."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("files", type=Path, nargs="+", help="CSV files of benchmarks")
    rows: list[dict[str, str]] = []
    for file in made.parse_args().files:
        with file.open(newline="", encoding="utf-8") as stream:
            rows += csv.DictReader(stream)
    with (RESULTS / "performance.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    page = RESULTS / "performance.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    names = ("name", "value", "unit", "baseline", "ratio", "target", "clock", "threads")
    lines = [f"| {' | '.join(names)} |", "|---|---|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row[name] for name in names)} |" for row in rows]
    after = rest.partition(END)[2]
    page.write_text("\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"]), encoding="utf-8")


if __name__ == "__main__":
    main()
