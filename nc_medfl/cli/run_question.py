"""``nc-medfl run`` for a job without training: label statistics, or a model tested at every site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nc_medfl.cli.console import emit, progress_bar
from nc_medfl.cli.progress import tell
from nc_medfl.config import JobSettings
from nc_medfl.errors import Stopped

if TYPE_CHECKING:
    from nc_medfl.data.store import Store
    from nc_medfl.federation.environments import Environment


def run_question(
    settings: JobSettings,
    environment: Environment,
    out: Path,
    *,
    sites: Path | None = None,
    job_folder: Path | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Ask every site, write the tables, and print what came of it."""
    from nc_medfl.federation import run_folder
    from nc_medfl.federation.environments import Federation
    from nc_medfl.federation.workflows.outcome import complete, outcome_of
    from nc_medfl.report import write_report

    settings = complete(settings, server_is_here=environment.name != "prod")
    stores = _stores(settings, sites) if sites else {}
    needed = [sites, job_folder, Path(settings.model) if settings.model else None]
    needed += [store.folder for store in stores.values()]
    run_folder.fresh_folder(out, keep=[path for path in needed if path])
    record = run_folder.start_run(out, settings, environment.name, stores)
    federation = Federation(settings, out / run_folder.FLARE_FOLDER, job_folder, tuple(stores), sites)

    def follow(event: dict[str, Any], advance: Any) -> None:
        run_folder.note_event(out, record, event)
        tell(event)
        advance(int(event["event"] == "finished"), 1)

    try:
        with progress_bar(f"{settings.name}: asking {len(stores) or 'the'} sites") as advance:
            results = environment.run(federation, lambda event: follow(event, advance))
        outcome = outcome_of(settings, results, out)
    except Stopped:
        raise  # the job goes on, and so does its record
    except BaseException:
        run_folder.end_run(out, record, "failed")
        raise
    record["fingerprints"] |= outcome.fingerprints
    run_folder.end_run(out, record, "finished")
    files = [*outcome.files, *([write_report(out)] if outcome.has_metrics else [])]
    payload = {**outcome.payload, "files": [str(path) for path in files]}
    emit(payload, [*outcome.lines, *map(str, files)], as_json)
    return payload


def _stores(settings: JobSettings, sites: Path) -> dict[str, Store]:
    from nc_medfl.config import load_site_config
    from nc_medfl.federation.site import open_site, site_files
    from nc_medfl.labels import load_vocabulary

    vocabulary = load_vocabulary(settings.vocabulary)
    return {name: open_site(load_site_config(path), vocabulary) for name, path in site_files(sites).items()}
