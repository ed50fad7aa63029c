"""The search of a study: candidates of every method, scored on validation, and what is taken of them.

``search.csv`` has a row a run of a candidate, ``found.yaml`` what was chosen; the matrix then runs with that.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from nc_medfl.benchmark.matrix import Json, Matrix, RunKey, job_of
from nc_medfl.benchmark.search_space import Search, at, dotted_of, nested, points, same, shown, size_of
from nc_medfl.config import JobSettings
from nc_medfl.data.store import write_atomic
from nc_medfl.errors import RunFailed, UserError

SEARCH, SEARCH_CSV, FOUND_YAML = "search", "search.csv", "found.yaml"
SCHEMA_VERSION = 1
#: Draws that give nothing new before a space counts as used up.
_MOST_REPEATS = 200


@dataclass(frozen=True, eq=False)
class Trial:
    """A run of a candidate.

    Attributes:
        key: data set, partition, method and seed.
        number: of the candidate; 0 is the method as the matrix has it.
        dotted: its settings by name with dots.
        more: the same nested, with the rounds of the search.
    """

    key: RunKey
    number: int
    dotted: Json
    more: Json

    @property
    def folder(self) -> Path:
        """Of its run, below the study."""
        key = self.key
        return Path(SEARCH) / key.dataset / key.partition / key.method / f"candidate{self.number}" / f"seed{key.seed}"


def candidates(matrix: Matrix, method: str) -> list[Json]:
    """A method's candidates, by name with dots; the first has no settings.

    Raises:
        UserError: if a setting is unknown, takes no such value, or changes nothing, or a grid is over the budget.
    """
    search = _search_of(matrix)
    where, space = f"search of {method}", search.space(method)
    if search.sampling == "grid" and size_of(space) + 1 > search.budget:
        raise UserError(
            f"{where}: {size_of(space):g} combinations and the method as it is are more than budget {search.budget}. "
            "Raise it, or set sampling: random."
        )
    given = job_of(matrix, method, seed=0)
    seen, repeats = [given], 0
    drawn: list[Json] = []
    out: list[Json] = [{}]
    try:
        for point in points(space, search.sampling, search.seed):
            if len(out) >= search.budget or repeats > _MOST_REPEATS:
                break
            repeats += 1
            if point in drawn:
                continue
            drawn.append(point)
            job = _job(matrix, method, point, where)
            if job in seen:
                continue
            seen.append(job)
            repeats = 0
            out.append({name: at(job.model_dump(mode="json"), name) for name in point})
    except ValueError as error:
        raise UserError(f"{where}: {error}. Mend the section 'search'.") from error
    return out


def _job(matrix: Matrix, method: str, point: Json, where: str) -> JobSettings:
    job = job_of(matrix, method, seed=0, where=where, more=nested(point))
    content = job.model_dump(mode="json")
    for name, value in point.items():
        if not same(value, at(content, name)):
            raise UserError(
                f"{where}: {name} can't be set, for paper_compat sets it. "
                f"Leave it out with 'search.methods.{method}: {{{name}: null}}'."
            )
    return job


def trials(matrix: Matrix, keys: Iterable[RunKey]) -> list[Trial]:
    """All runs of the search that some runs of the matrix wait for."""
    search = _search_of(matrix)
    wanted: dict[tuple[str, str, str], None] = {}
    for key in keys:
        for partition in search.partitions or (key.partition,):
            wanted[key.dataset, partition, key.method] = None
    rounds: Json = {} if search.rounds is None else {"rounds": search.rounds}
    by_method = {method: candidates(matrix, method) for method in dict.fromkeys(method for _, _, method in wanted)}
    return [
        Trial(RunKey(dataset, partition, method, seed), number, dotted, {**nested(dotted), **rounds})
        for seed in search.seeds
        for dataset, partition, method in wanted
        for number, dotted in enumerate(by_method[method])
    ]


def search_of(matrix: Matrix, trial: Trial) -> tuple[str, ...]:
    """Which search a trial belongs to: those with the same are compared with each other."""
    key = trial.key
    return (key.dataset, key.method) if _search_of(matrix).partitions else (key.dataset, key.method, key.partition)


def conclude(matrix: Matrix, out: Path, done: Mapping[Trial, Json], failed: Mapping[Trial, str]) -> dict[RunKey, Json]:
    """Write ``search.csv`` and ``found.yaml``; give the settings that each run of the matrix is made with.

    Args:
        matrix: the study.
        out: its folder.
        done: ``run.json`` of each trial that ended.
        failed: why the others did not.

    Raises:
        RunFailed: if no candidate of a method could be scored.
    """
    rows = [_row(trial, done.get(trial), failed.get(trial, "")) for trial in (*done, *failed)]
    table = pd.DataFrame(rows).sort_values(
        ["dataset", "partition", "method", "candidate", "seed"],
        key=lambda c: c.map({name: k for k, name in enumerate(matrix.methods)}) if c.name == "method" else c,
        kind="stable",
    )
    write_atomic(out / SEARCH_CSV, table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
    dotted = {(trial.key.method, trial.number): trial.dotted for trial in (*done, *failed)}
    best = _best(matrix, table)
    write_atomic(out / FOUND_YAML, _found_text(matrix, best, dotted).encode())
    found: dict[RunKey, Json] = {}
    for (dataset, partition, method), (number, _) in best.items():
        for seed in matrix.seeds:
            found[RunKey(dataset, partition, method, seed)] = nested(dotted[method, number])
    return found


def found_settings(matrix: Matrix, out: Path) -> dict[RunKey, Json]:
    """The settings that :func:`conclude` gave, read from what it wrote; empty where nothing was searched."""
    if matrix.search is None or not (out / FOUND_YAML).is_file():
        return {}
    content: Any = yaml.safe_load((out / FOUND_YAML).read_text(encoding="utf-8"))
    return {
        RunKey(dataset, partition, method, seed): one["settings"]
        for dataset, partitions in content["found"].items()
        for partition, methods in partitions.items()
        for method, one in methods.items()
        for seed in matrix.seeds
    }


def _row(trial: Trial, run: Json | None, reason: str) -> Json:
    key = trial.key
    return {
        "dataset": key.dataset,
        "partition": key.partition,
        "method": key.method,
        "candidate": trial.number,
        "seed": key.seed,
        "settings": shown(trial.dotted),
        "chosen_round": run.get("chosen_round") if run else None,
        "validation_auc": run.get("validation_auc") if run else None,
        "seconds": run.get("seconds") if run else None,
        "reason": reason or ("" if run and run.get("validation_auc") is not None else "undefined on validation"),
    }


def _best(matrix: Matrix, table: pd.DataFrame) -> dict[tuple[str, str, str], tuple[int, float]]:
    """Candidate and score by data set, partition of the matrix, and method."""
    search = _search_of(matrix)
    best: dict[tuple[str, str, str], tuple[int, float]] = {}
    for (dataset, method), rows in table.groupby(["dataset", "method"], sort=False):
        groups = {None: rows} if search.partitions else dict(iter(rows.groupby("partition", sort=False)))
        for partition, part in groups.items():
            number, score = _highest(part, f"{dataset}, {method}")
            for name in matrix.partitions if partition is None else [partition]:
                best[str(dataset), str(name), str(method)] = (number, score)
    return best


def _highest(rows: pd.DataFrame, where: str) -> tuple[int, float]:
    """The candidate with the highest mean; one that failed anywhere is out, and the earlier one wins a tie."""
    means = rows.groupby("candidate")["validation_auc"].agg(lambda values: np.mean(values.to_numpy(dtype=float)))
    if means.isna().all():
        raise RunFailed(f"search: no candidate of {where} could be scored. See {SEARCH_CSV} for the reasons.")
    place = int(np.nanargmax(means.to_numpy()))
    return int(means.index.to_numpy()[place]), float(means.to_numpy()[place])


def _found_text(
    matrix: Matrix, best: Mapping[tuple[str, str, str], tuple[int, float]], dotted: Mapping[tuple[str, int], Json]
) -> str:
    search = _search_of(matrix)
    found: Json = {}
    for (dataset, partition, method), (number, score) in best.items():
        place = found.setdefault(dataset, {}).setdefault(partition, {})
        place[method] = {
            "candidate": number,
            "validation_auc": float(f"{score:.6g}"),
            "settings": nested(dotted[method, number]),
        }
    counts = pd.Series([method for method, _ in dotted]).value_counts()
    content = {
        "schema_version": SCHEMA_VERSION,
        "budget": search.budget,
        "candidates": {name: int(counts[name]) for name in matrix.methods if name in counts},
        "sampling": search.sampling,
        "seeds": list(search.seeds),
        "partitions": list(search.partitions) or "each for itself",
        "found": found,
    }
    stream = io.StringIO()
    stream.write("# Chosen on validation alone; candidate 0 is the method as the matrix has it.\n")
    yaml.safe_dump(content, stream, sort_keys=False, allow_unicode=True)
    return stream.getvalue()


def found_lines(out: Path) -> list[str]:
    """What was found, in Markdown; nothing where nothing was searched."""
    try:
        content: Any = yaml.safe_load((out / FOUND_YAML).read_text(encoding="utf-8"))
    except OSError:
        return []
    lines = [
        "",
        "## Settings found by search",
        "",
        f"Budget {content['budget']} candidates a method ({content['sampling']}), the first being the method as it is; "
        f"seeds {', '.join(map(str, content['seeds']))}; chosen by macro AUC on validation. All: `{SEARCH_CSV}`.",
        "",
        "| dataset | partition | method | candidates | validation AUC | settings |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for dataset, partitions in content["found"].items():
        for partition, methods in partitions.items():
            for method, one in methods.items():
                told = shown(dotted_of(one["settings"])) or "as it is"
                tried = content["candidates"][method]
                lines.append(f"| {dataset} | {partition} | {method} | {tried} | {one['validation_auc']:.3f} | {told} |")
    return lines


def _search_of(matrix: Matrix) -> Search:
    assert matrix.search is not None
    return matrix.search
