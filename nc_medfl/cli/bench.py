"""``nc-medfl bench``: methods beside each other, on the same data, sites and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nc_medfl.cli.console import emit, progress_bar, warn
from nc_medfl.cli.options import AsJson

if TYPE_CHECKING:
    from nc_medfl.benchmark.matrix import Matrix


def bench(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX.yaml", help="Data sets, partitions, methods and seeds.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; what is there already is not run again.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, a thread each.")] = 1,
    data: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH: where the data of that name lies, instead of what the file says."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only runs whose address fits, such as '*/iid/fedavg/*'. Repeatable.")
    ] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Run nothing; make the tables of what is there.")] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Initial weights of the backbone, instead of settings.network.init_weights.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Run nothing; measure steps here, and say how long all would take.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a matrix of data sets, partitions, methods and seeds; stop it at any time, and run it again to go on.

    Example: `nc-medfl bench benchmarks/cpu/core.yaml --data cifar10_composites=cifar10/train.zip --jobs 2 --out study`
    """
    from nc_medfl.benchmark.matrix import load_matrix
    from nc_medfl.benchmark.report import write_report
    from nc_medfl.benchmark.runner import Outcome, run_matrix
    from nc_medfl.errors import RunFailed, UserError

    study = load_matrix(matrix, data or [], weights)
    if estimate:
        _estimate(study, only or [], as_json)
        return
    if out is None:
        raise UserError("bench: where to? Give --out a folder.")
    if tables:
        if not (out / "runs").is_dir():
            raise UserError(f"{out}: no runs in it. Leave --tables out to make them.")
        outcome = Outcome(0, 0, {})
        paths = write_report(study, out)
    else:
        with progress_bar("Runs") as progress:
            try:
                outcome = run_matrix(study, out, jobs=jobs, only=only, progress=progress)
            finally:
                # Stopped or failed, the study has the tables of what is there.
                paths = write_report(study, out) if (out / "runs").is_dir() else []
    _tell_of_others(study, out)
    for folder, reason in sorted(outcome.failed.items()):
        warn(f"{folder}: {reason}")
    payload = {"out": str(out), "made": outcome.made, "kept": outcome.kept, "failed": outcome.failed}
    emit(payload | {"files": [str(path) for path in paths]}, [str(path) for path in paths], as_json)
    if outcome.failed:
        told = f"{len(outcome.failed)} run{'s' if len(outcome.failed) > 1 else ''} failed"
        raise RunFailed(f"{told}. Mend what is said of each, and run the same command again.")


def _tell_of_others(study: Matrix, out: Path) -> None:
    from nc_medfl.benchmark.results import finished_runs

    _, others = finished_runs(study, out)
    if others:
        warn(
            f"{out}: {len(others)} runs were made with other settings or data than the matrix has now, such as "
            f"{others[0].folder.as_posix()}. They are in no table; without --tables and --only they are made again."
        )


def _estimate(study: Matrix, only: list[str], as_json: bool) -> None:
    from nc_medfl.benchmark.estimate import device_name, estimate, lines_of
    from nc_medfl.benchmark.runner import select

    with progress_bar("Measuring") as progress:
        rows = estimate(study, select(study, only), progress)
    emit(
        {"device": device_name(), "hours": round(sum(row["hours"] for row in rows), 3), "rows": rows},
        lines_of(rows),
        as_json,
    )
