"""``nc-medfl evaluate``: measure a run's model at every site again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nc_medfl.cli.console import emit, progress_bar
from nc_medfl.cli.run import summary_of
from nc_medfl.errors import UserError


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The --out of 'nc-medfl run'.")],
    sites: Annotated[Path, typer.Option(help="Folder with the sites' settings and stores.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for metrics.csv and metrics.json (default: RUN, with its report).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Measure the chosen model of RUN on every site's test split, and over all patients.

    Example: `nc-medfl evaluate runs/first --sites sites`
    """
    from nc_medfl.evaluation import write_metrics
    from nc_medfl.federation.measure import measure_everywhere
    from nc_medfl.federation.run_folder import read_run
    from nc_medfl.report import write_report

    read_run(run)
    folder = out or run
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Give --out another folder.") from error
    with progress_bar("testing at every site") as advance:
        rows = measure_everywhere(run / "model_best.pt", sites, on_progress=advance)
    write_metrics(rows, folder)
    paths = [folder / "metrics.csv"]
    if out is None:
        paths.append(write_report(run))
    macro = summary_of(rows)
    lines = [f"{site}: test macro AUC {n['value']:.3f}" for site, n in macro.items() if n["value"] is not None]
    emit({"macro_auc": macro, "files": [str(p) for p in paths]}, [*lines, *map(str, paths)], as_json)
