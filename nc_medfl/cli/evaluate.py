"""``nc-medfl evaluate``: measure a run's model at every site again, or anybody's table of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nc_medfl.cli.against import (
    Against,
    compare_models,
    compare_tables,
    label_of,
    model_of,
    others_of,
    said,
    tables_of,
)
from nc_medfl.cli.console import console, emit, progress_bar
from nc_medfl.cli.evaluate_options import (
    Calibrate,
    FixedThreshold,
    Groups,
    Interval,
    MinGroup,
    Resamples,
    Seed,
    TargetPpv,
    TargetSensitivity,
    ThresholdRule,
    overridden,
)
from nc_medfl.cli.options import AsJson
from nc_medfl.cli.run import interval_text, summary_of
from nc_medfl.errors import UserError, writing

if TYPE_CHECKING:
    import pandas as pd

    from nc_medfl.evaluation.measured import Measured


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="The --out of 'nc-medfl run', or a model file.")
    ] = None,
    sites: Annotated[Path | None, typer.Option(help="Folder with the sites' settings and stores.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A table of predictions, CSV or Parquet, in place of RUN.")
    ] = None,
    against: Against = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables (default: RUN, with its report).")] = None,
    threshold_rule: ThresholdRule = None,
    target_sensitivity: TargetSensitivity = None,
    target_ppv: TargetPpv = None,
    fixed_threshold: FixedThreshold = None,
    calibrate: Calibrate = None,
    groups: Groups = None,
    min_group: MinGroup = None,
    resamples: Resamples = None,
    interval: Interval = None,
    seed: Seed = None,
    as_json: AsJson = False,
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
        "interval": interval,
    }
    folder = _folder(run, sites, predictions, out)
    if predictions is not None:
        measured, compared = _of_table(predictions, tables_of(against or []), given, seed or 0)
    else:
        measured, compared = _of_run(run, sites, against or [], given, seed, folder)
    paths = _write(measured, compared, folder)
    if out is None and run is not None:
        from nc_medfl.report import write_report

        paths.append(write_report(run))
    macro = summary_of(measured.rows)
    lines = [f"{site}: test macro AUC {interval_text(numbers)}" for site, numbers in macro.items()]
    told = said(compared)
    payload = {"macro_auc": macro, "comparisons": told, "files": [str(p) for p in paths]}
    emit(payload, [*lines, *told, *map(str, paths)], as_json)


def _folder(run: Path | None, sites: Path | None, predictions: Path | None, out: Path | None) -> Path:
    """Where the tables go; what was asked must make sense first."""
    if (run is None) == (predictions is None):
        raise UserError("evaluate: give either RUN or --predictions FILE.")
    if run is not None and not run.exists():
        raise UserError(f"{run}: no such run. Give the --out of 'nc-medfl run', or a model's file.")
    if run is not None and sites is None:
        raise UserError("evaluate: a model needs --sites, the folder with the sites' settings and stores.")
    if out is None and (run is None or run.is_file()):
        raise UserError("evaluate: --out is missing. Name a folder for the tables.")
    folder = out or run
    assert folder is not None
    return folder


def _of_run(
    run: Path | None, sites: Path | None, against: list[str], given: dict[str, Any], seed: int | None, folder: Path
) -> tuple[Measured, pd.DataFrame | None]:
    from nc_medfl.federation.measure import measure_everywhere
    from nc_medfl.training.model import load_model

    assert run is not None
    assert sites is not None
    model = model_of(run)
    trained = load_model(model)[1]
    settings = overridden(trained.evaluation, given)
    # What can't be compared is said before anything is worked out.
    others = others_of(against)
    with progress_bar("testing at every site") as advance:
        measured = measure_everywhere(model, sites, evaluation=settings, seed=seed, on_progress=advance)
    if not others:
        return measured, None
    seed = trained.seed if seed is None else seed
    return measured, compare_models(model, others, sites, folder, settings, seed)


def _of_table(
    path: Path, against: list[Path], given: dict[str, Any], seed: int
) -> tuple[Measured, pd.DataFrame | None]:
    from nc_medfl.config import EvaluationSettings
    from nc_medfl.evaluation.measured import About, measure_sites
    from nc_medfl.evaluation.predictions import read_predictions
    from nc_medfl.labels import Vocabulary

    settings = overridden(EvaluationSettings(), given)
    tables = [read_predictions(one) for one in (path, *against)]
    for remark in dict.fromkeys(remark for table in tables for remark in table.remarks):
        console.print(f"note: {remark}", markup=False, highlight=False, soft_wrap=True)
    found = tables[0].by_site()
    if not found:
        raise UserError(f"{path}: no row with split 'test' to measure on. Mark the rows to be measured as test.")
    about = About(path.stem, "predictions", Vocabulary(path.stem, tables[0].findings), settings, seed)
    # A pair that does not match is said before anything is worked out.
    compared = compare_tables(tables, [label_of(one) for one in (path, *against)], settings, seed) if against else None
    with progress_bar("measuring") as advance:
        return measure_sites(found, about, on_progress=advance), compared


def _write(measured: Measured, compared: pd.DataFrame | None, folder: Path) -> list[Path]:
    from nc_medfl.evaluation import write_metrics
    from nc_medfl.evaluation.compare import write_comparisons
    from nc_medfl.evaluation.decide import write_decisions

    with writing(folder, "Give --out another folder."):
        folder.mkdir(parents=True, exist_ok=True)
        metrics, _ = write_metrics(measured.rows, folder)
        paths = [metrics, *write_decisions(measured.tables, folder)]
        return paths if compared is None else [*paths, write_comparisons(compared, folder)]
