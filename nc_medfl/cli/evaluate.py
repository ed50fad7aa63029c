"""``nc-medfl evaluate``: measure a run, a model, or anybody's predictions."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nc_medfl.cli.console import emit, progress_bar
from nc_medfl.cli.run import summary_of
from nc_medfl.errors import UserError

if TYPE_CHECKING:
    from nc_medfl.evaluation.predictions import Predictions


class Interval(str, Enum):
    """How ends of intervals are read from the resamples."""

    percentile = "percentile"
    bca = "bca"


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="The --out of 'nc-medfl run', or a model file (.pt).")
    ] = None,
    sites: Annotated[Path | None, typer.Option(help="Folder with the sites' settings and stores.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="A CSV or Parquet table of predictions instead.")] = None,
    against: Annotated[
        Path | None, typer.Option("--against", "--compare", help="A second run, model or table: comparisons.csv.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for metrics.csv and metrics.json (default: RUN, with its report).")
    ] = None,
    resamples: Annotated[
        int | None, typer.Option(min=0, help="Of patients, for the intervals (default: the job's, or 2000).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the resamples (default: the job's, or 0).")] = None,
    interval: Annotated[Interval, typer.Option(help="How ends are read from the resamples.")] = Interval.percentile,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Measure a run, a model or a table of predictions on each site's test split, and over all patients.

    Examples: `nc-medfl evaluate runs/first --sites sites`, `nc-medfl evaluate --predictions p.csv --out results`
    """
    from nc_medfl.evaluation import write_metrics

    folder = _folder(run, sites, predictions, out)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "interval": interval.value}
    if predictions is not None:
        rows = _rows_of_table(predictions, options)
    else:
        rows = _rows_of_model(_model(run), sites, options)
    compared = None
    if against is not None:
        compared = _compare((predictions or _model(run), against), sites, predictions is not None, options)
    write_metrics(rows, folder)
    paths = [folder / "metrics.csv"]
    lines = []
    if compared is not None:
        from nc_medfl.evaluation.compare import write_comparisons

        paths.append(write_comparisons(compared, folder))
        shown = compared[(compared["metric"] == "auc") & (compared["finding"] == "macro")]
        lines += [str(text) for text in shown["sentence"]]
    if out is None and run is not None:
        from nc_medfl.report import write_report

        paths.append(write_report(run))
    macro = summary_of(rows)
    lines = [f"{s}: test macro AUC {n['value']:.3f}" for s, n in macro.items() if n["value"] is not None] + lines
    emit({"macro_auc": macro, "files": [str(p) for p in paths]}, [*lines, *map(str, paths)], as_json)


def _folder(run: Path | None, sites: Path | None, predictions: Path | None, out: Path | None) -> Path:
    """Where results go, once the arguments make sense together."""
    from nc_medfl.federation.run_folder import read_run

    if (run is None) == (predictions is None):
        raise UserError("evaluate: give either RUN (a run or a model file) or --predictions FILE.")
    if run is not None and sites is None:
        raise UserError("evaluate: --sites is missing: the folder with the sites' settings and stores.")
    if run is not None and not run.is_file():
        read_run(run)
    folder = out or (run if run is not None and run.is_dir() else None)
    if folder is None:
        raise UserError("evaluate: --out is missing: the folder for metrics.csv.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Give --out another folder.") from error
    return folder


def _model(run: Path | None) -> Path:
    if run is None:
        raise UserError("evaluate: give RUN, a run or a model file.")
    return run / "model_best.pt" if run.is_dir() else run


def _rows_of_table(path: Path, options: dict[str, Any]) -> Any:
    from nc_medfl.evaluation.anybody import evaluate_predictions
    from nc_medfl.evaluation.predictions import read_predictions

    table = read_predictions(path)
    with progress_bar("measuring") as advance:
        return evaluate_predictions(table, run=path.stem, model=path.stem, on_progress=advance, **_filled(options))


def _rows_of_model(model: Path, sites: Path | None, options: dict[str, Any]) -> Any:
    from nc_medfl.federation.measure import measure_everywhere

    with progress_bar("testing at every site") as advance:
        return measure_everywhere(model, sites or Path(), on_progress=advance, **options)


def _compare(pair: tuple[Path, Path], sites: Path | None, tables: bool, options: dict[str, Any]) -> Any:
    from nc_medfl.evaluation.compare import compare_predictions

    parts: list[Predictions] = []
    for path in pair:
        if tables:
            from nc_medfl.evaluation.predictions import read_predictions

            parts.append(read_predictions(path))
        else:
            from nc_medfl.federation.measure import score_everywhere

            with progress_bar("scoring at every site") as advance:
                parts.append(score_everywhere(_model(path), sites or Path(), on_progress=advance))
    first, second = (_name(path) for path in pair)
    names = (first, second) if first != second else (f"{first} (A)", f"{second} (B)")
    return compare_predictions(parts[0], parts[1], names=names, **_filled(options))


def _name(path: Path) -> str:
    return path.parent.name if path.stem == "model_best" else path.stem


def _filled(options: dict[str, Any]) -> dict[str, Any]:
    defaults = {"resamples": 2000, "seed": 0}
    return {name: defaults.get(name) if value is None else value for name, value in options.items()}
