"""``nc-medfl evaluate``: measure a run's model at every site again, or anybody's table of predictions."""

from __future__ import annotations

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
    from nc_medfl.evaluation.measured import Measured


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="The --out of 'nc-medfl run', or a model file.")
    ] = None,
    sites: Annotated[Path | None, typer.Option(help="Folder with the sites' settings and stores.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A table of predictions, CSV or Parquet, in place of RUN.")
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
    measured = _of_table(predictions, given) if predictions else _of_run(run, sites, given)
    paths = _write(measured, folder)
    if out is None and run is not None:
        from nc_medfl.report import write_report

        paths.append(write_report(run))
    macro = summary_of(measured.rows)
    lines = [f"{site}: test macro AUC {n['value']:.3f}" for site, n in macro.items() if n["value"] is not None]
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


def _of_run(run: Path | None, sites: Path | None, given: dict[str, Any]) -> Measured:
    from nc_medfl.federation.measure import measure_everywhere
    from nc_medfl.federation.run_folder import read_run
    from nc_medfl.training.model import load_model

    assert run is not None
    assert sites is not None
    model = run
    if not run.is_file():
        read_run(run)
        model = run / "model_best.pt"
    settings = overridden(load_model(model)[1].evaluation, given)
    with progress_bar("testing at every site") as advance:
        return measure_everywhere(model, sites, evaluation=settings, on_progress=advance)


def _of_table(predictions: Path, given: dict[str, Any]) -> Measured:
    from nc_medfl.config import EvaluationSettings
    from nc_medfl.evaluation.measured import About, measure_sites
    from nc_medfl.evaluation.prediction_table import read_predictions

    settings = overridden(EvaluationSettings(), given)
    sites, vocabulary = read_predictions(predictions)
    about = About(predictions.stem, "predictions", vocabulary, settings)
    with progress_bar("measuring") as advance:
        return measure_sites(sites, about, on_progress=advance)


def _write(measured: Measured, folder: Path) -> list[Path]:
    from nc_medfl.evaluation import write_metrics
    from nc_medfl.evaluation.decide import write_decisions

    try:
        folder.mkdir(parents=True, exist_ok=True)
        metrics, _ = write_metrics(measured.rows, folder)
        return [metrics, *write_decisions(measured.tables, folder)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Give --out another folder.") from error
