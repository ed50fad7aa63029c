"""The whole preflight, in order."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from nc_medfl.config import JobSettings
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError
from nc_medfl.federation import keys
from nc_medfl.federation.kit import SITE_CONFIG, Kit
from nc_medfl.federation.preflight import certificate, data, machine, policy
from nc_medfl.federation.preflight.result import Result, failed, skipped
from nc_medfl.federation.preflight.server import check_server


def preflight(kit: Kit | None, site_config: Path | None, job: JobSettings | None) -> list[Result]:
    """Look at everything that a federation will need here.

    Args:
        kit: the site's startup kit; None leaves out what concerns certificate, server and policy.
        site_config: its ``site.yaml``; None looks where FLARE's client would.
        job: the settings of a job that is to run; None compares the store with none.

    Returns:
        One result a question.

    Raises:
        UserError: if neither a kit nor a ``site.yaml`` is given.
    """
    results: list[Result] = []
    store = None
    if kit is None or kit.role == "client":
        path = site_config or _where(kit)
        found, store = _of_site(path, kit.name if kit else None, job)
        results += found
    place = kit.folder if kit else (store.folder if store else Path.cwd())
    results += [machine.check_disk(place), machine.check_memory(), machine.check_packages(store)]
    return results + (_of_kit(kit) if kit else [])


def _where(kit: Kit | None) -> Path:
    """Where FLARE's client looks for a site's settings (see :mod:`nc_medfl.federation.site`)."""
    if named := os.environ.get(keys.ENV_SITE_CONFIG):
        return Path(named)
    if kit is None:
        raise UserError("check: give --kit (a startup kit) or --site-config (a site.yaml).")
    return kit.local / SITE_CONFIG


def _of_site(path: Path, name: str | None, job: JobSettings | None) -> tuple[list[Result], Store | None]:
    found, config = data.check_config(path, name)
    if config is None:
        because = "not looked at, since there are no settings"
        names = ("store", "positives", *(("policy",) if job else ()), "device")
        return [found, *(skipped(name, because) for name in names)], None
    looked, store = data.check_store(config, job)
    device = machine.check_device(config)
    if store is None:
        because = "not looked at, since there is no store"
        names = ("positives", *(("policy",) if job else ()))
        return [found, looked, *(skipped(name, because) for name in names), device], None
    about_job = [data.check_policy(config, job, store)] if job else []
    return [found, looked, *data.check_positives(store, config.privacy.min_positives), *about_job, device], store


def _of_kit(kit: Kit) -> list[Result]:
    results = []
    if kit.role != "admin":
        results += [machine.check_python(kit.folder), policy.check_allow_list(kit), policy.check_authorization(kit)]
    now = datetime.now(timezone.utc)
    credentials = None
    try:
        credentials = certificate.read_credentials(kit)
        results.append(certificate.check_certificate(kit, credentials, now))
    except UserError as error:
        results.append(failed("certificate", str(error), ""))
    if kit.role == "server":
        return [*results, certificate.check_clock(credentials, now, None)]
    server = check_server(kit, credentials)
    return [*results, *server.results, certificate.check_clock(credentials, datetime.now(timezone.utc), server.date)]
