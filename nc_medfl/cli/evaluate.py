"""``nc-medfl evaluate``: measure a run's model at every site again, or anybody's table of predictions."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nc_medfl.cli.console import emit, progress_bar
from nc_medfl.cli.evaluate_options import (
    Calibrate,
    FixedThreshold,
    Groups,
    MinGroup,
    Resamples,
    TargetPpv,
    TargetSensitivity,
    ThresholdRule,
    overridden,
)
from nc_medfl.cli.run import summary_of
from nc_medfl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from nc_medfl.evaluation.measured import Measured
    from nc_medfl.evaluation.predictions import Predictions


class Interval(str, Enum):
    """How ends of intervals are read from the resamples."""

    percentile = "percentile"
    bca = "bca"


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="The --out of 'nc-medfl run', or a model file.")
    ] = None,
    sites: Annotated[Path | None, typer.Option(help="Folder with the sites' settings and stores.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A table of predictions, CSV or Parquet, in place of RUN.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", "--compare", help="A second run, model or table: comparisons.csv.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables (default: RUN, with its report).")] = None,
    threshold_rule: ThresholdRule = None,
    target_sensitivity: TargetSensitivity = None,
    target_ppv: TargetPpv = None,
    fixed_threshold: FixedThreshold = None,
    calibrate: Calibrate = None,
    groups: Groups = None,
    min_group: MinGroup = None,
    resamples: Resamples = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the resamples (default: the job's, or 0).")] = None,
    interval: Annotated[Interval, typer.Option(help="How ends are read from the resamples.")] = Interval.percentile,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Measure on every site's test split, and over all patients: metrics, thresholds, calibration, fairness.

    Example: `nc-medfl evaluate runs/first --sites sites --threshold-rule sensitivity --target-sensitivity 0.95`
    """
    given = {
        "target_sensitivity": target_sensitivity,
        "target_ppv": target_ppv,
        "fixed_threshold": fixed_threshold,
        "threshold": threshold_rule,
        "calibrate": calibrate,
        "groups": groups,
        "min_group": min_group,
        "resamples": resamples,
    }
    folder = _folder(run, sites, predictions, out)
    drawn: dict[str, Any] = {"seed": seed, "interval": interval.value}
    measured = _of_table(predictions, given, drawn) if predictions else _of_run(run, sites, given, drawn)
    compared = None
    if against is not None:
        drawn |= {"seed": seed or 0, "resamples": 2000 if resamples is None else resamples}
        compared = _compare((predictions or _model(run), against), sites, predictions is not None, drawn)
    paths = _write(measured, folder)
    sentences = _write_comparison(compared, folder, paths)
    if out is None and run is not None:
        from nc_medfl.report import write_report

        paths.append(write_report(run))
    macro = summary_of(measured.rows)
    lines = [f"{site}: test macro AUC {n['value']:.3f}" for site, n in macro.items() if n["value"] is not None]
    lines += sentences
    emit({"macro_auc": macro, "files": [str(p) for p in paths]}, [*lines, *map(str, paths)], as_json)


def _folder(run: Path | None, sites: Path | None, predictions: Path | None, out: Path | None) -> Path:
    """Where the tables go; what was asked must make sense first."""
    if (run is None) == (predictions is None):
        raise UserError("evaluate: give either RUN or --predictions FILE.")
    if run is not None and sites is None:
        raise UserError("evaluate: a model needs --sites, the folder with the sites' settings and stores.")
    if out is None and (run is None or run.is_file()):
        raise UserError("evaluate: --out is missing. Name a folder for the tables.")
    folder = out or run
    assert folder is not None
    return folder


def _of_run(run: Path | None, sites: Path | None, given: dict[str, Any], drawn: dict[str, Any]) -> Measured:
    from nc_medfl.federation.measure import measure_everywhere
    from nc_medfl.federation.run_folder import read_run
    from nc_medfl.training.model import load_model

    if run is not None and not run.is_file():
        read_run(run)
    model = _model(run)
    settings = overridden(load_model(model)[1].evaluation, given)
    with progress_bar("testing at every site") as advance:
        return measure_everywhere(model, sites or Path(), evaluation=settings, on_progress=advance, **drawn)


def _model(run: Path | None) -> Path:
    if run is None:
        raise UserError("evaluate: give RUN, a run or a model file.")
    return run if run.is_file() or run.suffix == ".pt" else run / "model_best.pt"


def _of_table(predictions: Path, given: dict[str, Any], drawn: dict[str, Any]) -> Measured:
    from nc_medfl.config import EvaluationSettings
    from nc_medfl.evaluation.anybody import measure_predictions
    from nc_medfl.evaluation.predictions import read_predictions

    settings = overridden(EvaluationSettings(), given)
    table, name = read_predictions(predictions), predictions.stem
    drawn = {**drawn, "seed": drawn["seed"] or 0}
    with progress_bar("measuring") as advance:
        return measure_predictions(table, run=name, model=name, settings=settings, on_progress=advance, **drawn)


def _compare(pair: tuple[Path, Path], sites: Path | None, tables: bool, options: dict[str, Any]) -> pd.DataFrame:
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
    return compare_predictions(parts[0], parts[1], names=names, **options)


def _name(path: Path) -> str:
    return path.parent.name if path.stem == "model_best" else path.stem


def _write_comparison(compared: pd.DataFrame | None, folder: Path, paths: list[Path]) -> list[str]:
    """Write ``comparisons.csv``, if there is any; give its sentences on the macro AUC."""
    if compared is None:
        return []
    from nc_medfl.evaluation.compare import write_comparisons

    paths.append(write_comparisons(compared, folder))
    shown = compared[(compared["metric"] == "auc") & (compared["finding"] == "macro")]
    return [str(text) for text in shown["sentence"]]


def _write(measured: Measured, folder: Path) -> list[Path]:
    from nc_medfl.evaluation import write_metrics
    from nc_medfl.evaluation.decide import write_decisions

    try:
        folder.mkdir(parents=True, exist_ok=True)
        metrics, _ = write_metrics(measured.rows, folder)
        return [metrics, *write_decisions(measured.tables, folder)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Give --out another folder.") from error
