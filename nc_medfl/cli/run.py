"""``nc-medfl run``: a federation, from its job folder to the report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from nc_medfl.cli.console import console, emit, progress_bar
from nc_medfl.cli.progress import show
from nc_medfl.cli.run_question import run_question
from nc_medfl.config import JobSettings
from nc_medfl.errors import UserError

Environment = Annotated[str, typer.Option("--env", help="Where to run: sim (FLARE's simulator on this machine).")]
Sites = Annotated[
    Path, typer.Option(help="Folder with SITE/site.yaml or SITE.yaml for each site, as 'partition' writes it.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be given often.")
]
Out = Annotated[Path, typer.Option(help="Folder for everything the run makes; an earlier run there is replaced.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Sites that work at the same time (default: all).")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out that was cut off, after its last finished round.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def run(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="A job folder, such as jobs/fednca_cxr.")],
    sites: Sites,
    out: Out,
    env: Environment = "sim",
    overrides: Overrides = None,
    threads: Threads = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train a federation, test the chosen model at every site, and write the report; or ask the sites one thing.

    Example: `nc-medfl run jobs/fednca_cxr --env sim --sites sites --set rounds=3 --out runs/first`
    """
    from nc_medfl.federation.jobs import read_job

    if env != "sim":
        raise UserError(f"--env {env}: not known here. Use --env sim.")
    settings = read_job(job, overrides or [])
    if settings.kind != "train":
        if resume:
            raise UserError("--resume: a job without training has no round to go on from. Leave it out.")
        run_question(settings, sites, out, job_folder=job, threads=threads, as_json=as_json)
        return
    run_simulation(settings, sites, out, job_folder=job, threads=threads, resume=resume, as_json=as_json)


def run_simulation(
    settings: JobSettings,
    sites: Path,
    out: Path,
    *,
    job_folder: Path | None = None,
    threads: int | None = None,
    fresh: bool = True,
    resume: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """Simulate, measure and report; prints as it goes, and gives what it printed as JSON.

    ``fresh`` empties ``out`` first, once the sites have been checked; ``resume`` goes on with the run in it.
    """
    from nc_medfl.evaluation import as_table, write_metrics
    from nc_medfl.federation import run_folder
    from nc_medfl.federation.measure import measure_everywhere
    from nc_medfl.federation.simulate import Simulation, simulate
    from nc_medfl.federation.site import check_sites
    from nc_medfl.labels import load_vocabulary
    from nc_medfl.report import write_report
    from nc_medfl.training.model import build_network

    stores, warnings = check_sites(sites, load_vocabulary(settings.vocabulary))
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    # A network that can't be built, or weights that don't fit, are told before anything starts.
    build_network(settings, pretrained=True)
    before = run_folder.check_resumable(out, settings) if resume else None
    if fresh and not resume:
        weights = settings.network.init_weights
        needed = [sites, *(store.folder for store in stores.values()), *([job_folder] if job_folder else [])]
        run_folder.fresh_folder(out, keep=[*needed, *([Path(weights)] if weights else [])])
    record = run_folder.start_run(out, settings, "sim", stores, before)
    workspace, state = out / run_folder.FLARE_FOLDER, out / run_folder.STATE_FOLDER
    simulation = Simulation(settings, tuple(stores), sites, workspace, job_folder, threads, state)
    try:
        with progress_bar(f"{settings.name}: starting {len(stores)} sites") as advance:
            results = simulate(simulation, lambda event: show(event, settings.rounds, advance))
        own_rows = as_table(run_folder.collect(out, results, record))
        with progress_bar("testing at every site") as advance:
            rows = measure_everywhere(out / "model_best.pt", sites, own_rows=own_rows, on_progress=advance)
        write_metrics(rows, out)
        shutil.rmtree(state, ignore_errors=True)
    except BaseException:
        run_folder.end_run(out, record, "failed")
        raise
    run_folder.end_run(out, record, "finished")
    page = write_report(out)
    return _print_summary(rows, page, out, int(record["best_round"]), as_json)


def summary_of(rows: Any) -> dict[str, dict[str, float | None]]:
    """Macro AUC by site, with its interval, from rows of ``metrics.csv``."""
    wanted = rows[(rows["finding"] == "macro") & (rows["metric"] == "auc") & (rows["group"] == "all")]
    out: dict[str, dict[str, float | None]] = {}
    for row in wanted.to_dict("records"):
        numbers = {name: row[name] for name in ("value", "low", "high")}
        out[str(row["site"])] = {name: None if v is None or v != v else float(v) for name, v in numbers.items()}
    return out


def _print_summary(rows: Any, page: Path, out: Path, best_round: int, as_json: bool) -> dict[str, Any]:
    macro = summary_of(rows)
    lines = [f"test macro AUC (chosen: round {best_round})"]
    for site, numbers in macro.items():
        lines.append(f"  {site:<20} {_interval(numbers)}")
    metrics = out / "metrics.csv"
    payload = {"macro_auc": macro, "best_round": best_round, "report": str(page), "metrics": str(metrics)}
    emit(payload, [*lines, str(metrics), str(page)], as_json)
    return payload


def _interval(numbers: dict[str, float | None]) -> str:
    if numbers["value"] is None:
        return "undefined"
    if numbers["low"] is None or numbers["high"] is None:
        return f"{numbers['value']:.3f}"
    return f"{numbers['value']:.3f}  (95% {numbers['low']:.3f} to {numbers['high']:.3f})"


def main_of_job(folder: Path) -> None:
    """What ``python jobs/<name>/job.py`` does: ``nc-medfl run`` with the job named already."""
    from nc_medfl.cli.main import guarded

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(help=f"Run the job {folder.name}; as 'nc-medfl run jobs/{folder.name}'.")
    def _command(
        sites: Sites,
        out: Out,
        env: Environment = "sim",
        overrides: Overrides = None,
        threads: Threads = None,
        resume: Resume = False,
        as_json: AsJson = False,
    ) -> None:
        run(folder, sites, out, env, overrides, threads, resume, as_json)

    guarded(app)
