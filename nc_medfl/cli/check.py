"""``nc-medfl check``: the preflight at a site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nc_medfl.cli.console import emit
from nc_medfl.cli.options import AsJson, Overrides


def check(
    kit: Annotated[Path | None, typer.Option(help="The startup kit: the folder with 'startup' and 'local'.")] = None,
    site_config: Annotated[
        Path | None, typer.Option(help="The site.yaml (default: local/site.yaml in the kit).")
    ] = None,
    job: Annotated[
        Path | None,
        typer.Option(
            help="A job folder that is to run, such as jobs/fednca_cxr; its findings are compared, and the site's "
            "policy is asked whether it takes part."
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check everything that a federation needs at this site, one line each: ok, or what to do.

    Looks at settings, store, positives per finding, disk, memory, device, packages; and with a kit at policy,
    certificate, server and clock. Changes nothing. Exit code 1 if anything failed.

    Example: `nc-medfl check --kit kits/st_mary --job jobs/fednca_cxr`
    """
    from nc_medfl.federation.jobs import read_job
    from nc_medfl.federation.kit import open_kit
    from nc_medfl.federation.preflight import preflight

    settings = read_job(job, overrides or []) if job else None
    results = preflight(open_kit(kit) if kit else None, site_config, settings)
    failures = sum(result.outcome == "failed" for result in results)
    warnings = sum(result.outcome == "warning" for result in results)
    payload = {"ready": not failures, "checks": [result.as_json() for result in results]}
    verdict = f"not ready: {failures} failed" if failures else "ready"
    emit(payload, [*(result.line() for result in results), f"{verdict}, {warnings} warnings"], as_json)
    if failures:
        raise typer.Exit(1)
