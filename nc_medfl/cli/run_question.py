"""``nc-medfl run`` for a job without training: label statistics, or a model tested at every site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nc_medfl.cli.console import emit, progress_bar
from nc_medfl.config import JobSettings


def run_question(
    settings: JobSettings,
    sites: Path,
    out: Path,
    *,
    job_folder: Path | None = None,
    threads: int | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Ask every site in the simulator, write the tables, and print what came of it."""
    from nc_medfl.config import load_site_config
    from nc_medfl.federation import run_folder
    from nc_medfl.federation.simulate import Simulation, simulate
    from nc_medfl.federation.site import open_site, site_files
    from nc_medfl.federation.workflows.outcome import complete, outcome_of
    from nc_medfl.labels import load_vocabulary
    from nc_medfl.report import write_report

    settings = complete(settings)
    vocabulary = load_vocabulary(settings.vocabulary)
    stores = {name: open_site(load_site_config(path), vocabulary) for name, path in site_files(sites).items()}
    needed = [sites, *(store.folder for store in stores.values()), *([job_folder] if job_folder else [])]
    run_folder.fresh_folder(out, keep=[*needed, *([Path(settings.model)] if settings.model else [])])
    record = run_folder.start_run(out, settings, "sim", stores)
    simulation = Simulation(settings, tuple(stores), sites, out / run_folder.FLARE_FOLDER, job_folder, threads)
    try:
        with progress_bar(f"{settings.name}: asking {len(stores)} sites") as advance:
            results = simulate(simulation, lambda _event: advance(0, len(stores)))
        outcome = outcome_of(settings, results, out)
    except BaseException:
        run_folder.end_run(out, record, "failed")
        raise
    record["fingerprints"] |= outcome.fingerprints
    run_folder.end_run(out, record, "finished")
    files = [*outcome.files, *([write_report(out)] if outcome.has_metrics else [])]
    payload = {**outcome.payload, "files": [str(path) for path in files]}
    emit(payload, [*outcome.lines, *map(str, files)], as_json)
    return payload
