"""``nc-medfl run``: a federation, from its job folder to the report."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nc_medfl.cli.console import emit, progress_bar, warn
from nc_medfl.cli.environments import (
    AdminKit,
    Env,
    Gpus,
    JobId,
    KeepPoc,
    Options,
    PocDir,
    Sites,
    Threads,
    make_environment,
)
from nc_medfl.cli.options import AsJson, Overrides
from nc_medfl.cli.progress import show
from nc_medfl.cli.run_question import run_question
from nc_medfl.config import JobSettings
from nc_medfl.errors import Stopped, UserError

if TYPE_CHECKING:
    from nc_medfl.data.store import Store
    from nc_medfl.evaluation.measured import Measured
    from nc_medfl.federation.environments import Environment

Out = Annotated[Path, typer.Option(help="Folder for everything the run makes; an earlier run there is replaced.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out that was cut off, after its last finished round.")
]
Afresh = Annotated[
    bool, typer.Option("--afresh", help="Start again where a run was cut off in --out; its finished rounds are lost.")
]


def run(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="A job folder, such as jobs/fednca_cxr.")],
    out: Out,
    sites: Sites = None,
    env: Env = "sim",
    overrides: Overrides = None,
    threads: Threads = None,
    gpus: Gpus = None,
    poc_dir: PocDir = None,
    keep_poc: KeepPoc = False,
    admin_kit: AdminKit = None,
    job_id: JobId = None,
    resume: Resume = False,
    afresh: Afresh = False,
    as_json: AsJson = False,
) -> None:
    """Train a federation, test the chosen model at every site, and write the report; or ask the sites one thing.

    Example: `nc-medfl run jobs/fednca_cxr --env sim --sites sites --set rounds=3 --out runs/first`
    """
    from nc_medfl.federation.jobs import read_job

    if resume and afresh:
        raise UserError("--resume and --afresh: a run goes on or starts again. Give one of them.")
    settings = read_job(job, overrides or [])
    if not (resume or afresh):
        _refuse_to_lose(out)
    options = Options(env, sites, threads, gpus, poc_dir, keep_poc, admin_kit, job_id)
    environment = make_environment(options, job, out)
    if settings.kind != "train":
        if resume:
            raise UserError("--resume: a job without training has no round to go on from. Leave it out.")
        run_question(settings, environment, out, sites=sites, job_folder=job, as_json=as_json)
        return
    run_federation(settings, environment, out, sites=sites, job_folder=job, resume=resume, as_json=as_json)


def _refuse_to_lose(out: Path) -> None:
    """See that no finished rounds of a run that was cut off go without a word.

    Raises:
        UserError: if there are any.
    """
    from nc_medfl.federation.run_folder import rounds_to_go_on_from

    if rounds := rounds_to_go_on_from(out):
        raise UserError(
            f"{out}: holds a run that was cut off after round {rounds}. Go on from there with --resume, give "
            "--afresh to start without it, or --out another folder."
        )


def run_federation(
    settings: JobSettings,
    environment: Environment,
    out: Path,
    *,
    sites: Path | None = None,
    job_folder: Path | None = None,
    fresh: bool = True,
    resume: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """Run, measure and report; prints as it goes, and gives what it printed as JSON.

    ``sites`` is None where they are not on this machine. ``fresh`` empties ``out`` first, once the sites have been
    checked; ``resume`` goes on with the run in it.
    """
    from nc_medfl.evaluation import write_metrics
    from nc_medfl.evaluation.decide import write_decisions
    from nc_medfl.federation import run_folder
    from nc_medfl.federation.environments import Federation
    from nc_medfl.report import write_report

    stores = _check_sites(settings, sites) if sites else {}
    before = run_folder.check_resumable(out, settings) if resume else None
    if resume and environment.name != "sim":  # whose jobs all have one number, so that one finds its own rounds
        waiting = settings.federation.model_copy(update={"resume": True})
        settings = settings.model_copy(update={"federation": waiting})
    if fresh and not resume:
        _empty(out, settings, sites, stores, job_folder)
    record = run_folder.start_run(out, settings, environment.name, stores, before)
    workspace, state = out / run_folder.FLARE_FOLDER, out / run_folder.STATE_FOLDER
    federation = Federation(settings, workspace, job_folder, tuple(stores), sites, state)
    try:
        with progress_bar(f"{settings.name}: starting {len(stores) or 'the'} sites") as advance:
            results = environment.run(federation, lambda event: _follow(event, out, record, advance))
        measured = _measured(out, results, record, sites)
        rows = measured.rows
        write_metrics(rows, out)
        write_decisions(measured.tables, out)
        shutil.rmtree(state, ignore_errors=True)
    except Stopped:
        raise  # the job goes on, and so does its record
    except BaseException:
        run_folder.end_run(out, record, "failed")
        raise
    run_folder.end_run(out, record, "finished")
    model = _portable(out, sites)
    page = write_report(out)
    return _print_summary(rows, page, out, int(record["best_round"]), as_json, model)


def _check_sites(settings: JobSettings, sites: Path) -> dict[str, Store]:
    """The stores of the sites on this machine; what would fail later is told before anything starts."""
    from nc_medfl.federation.site import check_sites
    from nc_medfl.labels import load_vocabulary
    from nc_medfl.training.model import build_network

    stores, warnings = check_sites(sites, load_vocabulary(settings.vocabulary), settings.image_size)
    for warning in warnings:
        warn(warning)
    # A network that can't be built, or weights that don't fit.
    build_network(settings, pretrained=True)
    return stores


def _portable(out: Path, sites: Path | None) -> Path | None:
    """The model file that leaves the run; a run is no failure for want of one."""
    from nc_medfl.federation.portable import package_run

    try:
        with progress_bar("writing the model file") as advance:
            advance(0, 1)
            return package_run(out, sites)
    except UserError as error:
        warn(f"no portable model: {error}")
        return None


def _empty(
    out: Path, settings: JobSettings, sites: Path | None, stores: Mapping[str, Store], job_folder: Path | None
) -> None:
    from nc_medfl.federation.run_folder import fresh_folder

    weights = settings.network.init_weights
    needed = [sites, job_folder, Path(weights) if weights else None, *(store.folder for store in stores.values())]
    fresh_folder(out, keep=[path for path in needed if path])


def _follow(event: dict[str, Any], out: Path, record: dict[str, Any], advance: Any) -> None:
    from nc_medfl.federation.run_folder import note_event

    note_event(out, record, event)
    show(event, int(event.get("rounds", record["rounds"])), advance)


def _measured(out: Path, results: Path, record: dict[str, Any], sites: Path | None) -> Measured:
    """The rows of ``metrics.csv``: the sites' own, and over all patients where their stores are on this machine."""
    from nc_medfl.evaluation import as_table
    from nc_medfl.evaluation.groups import fairness_table
    from nc_medfl.evaluation.measured import Measured
    from nc_medfl.evaluation.result_tables import FAIRNESS_CSV
    from nc_medfl.federation import run_folder
    from nc_medfl.federation.measure import measure_everywhere, with_mean
    from nc_medfl.federation.site_tables import tables_of
    from nc_medfl.training.model import load_model

    own_rows = as_table(run_folder.collect(out, results, record))
    if sites is not None:
        with progress_bar("testing at every site") as advance:
            return measure_everywhere(out / "model_best.pt", sites, own_rows=own_rows, on_progress=advance)
    # A job that is fetched later may have had other settings than those given now: the model knows.
    settings = load_model(out / "model_best.pt")[1].for_sites()
    record |= {
        "settings": settings.model_dump(mode="json"),
        **{name: getattr(settings, name) for name in ("name", "method", "rounds", "seed")},
        "sites": sorted({str(site) for site in own_rows["site"]}),
    }
    rows = with_mean(own_rows)
    return Measured(rows, {**tables_of(results), FAIRNESS_CSV: fairness_table(rows)})


def summary_of(rows: Any) -> dict[str, dict[str, float | None]]:
    """Macro AUC by site, with its interval, from rows of ``metrics.csv``."""
    wanted = rows[(rows["finding"] == "macro") & (rows["metric"] == "auc") & (rows["group"] == "all")]
    out: dict[str, dict[str, float | None]] = {}
    for row in wanted.to_dict("records"):
        numbers = {name: row[name] for name in ("value", "low", "high")}
        out[str(row["site"])] = {name: None if v is None or v != v else float(v) for name, v in numbers.items()}
    return out


def _print_summary(
    rows: Any, page: Path, out: Path, best_round: int, as_json: bool, model: Path | None = None
) -> dict[str, Any]:
    macro = summary_of(rows)
    lines = [f"test macro AUC (chosen: round {best_round})"]
    for site, numbers in macro.items():
        lines.append(f"  {site:<20} {interval_text(numbers)}")
    metrics = out / "metrics.csv"
    payload: dict[str, Any] = {
        "macro_auc": macro,
        "best_round": best_round,
        "report": str(page),
        "metrics": str(metrics),
        "model": None if model is None else str(model),
    }
    emit(payload, [*lines, *([] if model is None else [str(model)]), str(metrics), str(page)], as_json)
    return payload


def interval_text(numbers: dict[str, float | None]) -> str:
    """A value with its interval, as the terminal shows it."""
    if numbers["value"] is None:
        return "undefined"
    if numbers["low"] is None or numbers["high"] is None:
        return f"{numbers['value']:.3f}"
    return f"{numbers['value']:.3f}  (95% {numbers['low']:.3f} to {numbers['high']:.3f})"


def main_of_job(folder: Path) -> None:
    """What ``python jobs/<name>/job.py`` does: ``nc-medfl run`` with the job named already."""
    from nc_medfl.cli.main import guarded
    from nc_medfl.cli.verbs import load

    guarded(functools.partial(load("run"), [str(folder), *sys.argv[1:]], prog_name="nc-medfl run"))
