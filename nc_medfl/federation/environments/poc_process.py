"""The process that holds a POC: makes FLARE's kits, runs a server and a client for every site, and ends them all.

``python -m nc_medfl.federation.environments.poc_process SPEC.json``

FLARE's own ``nvflare poc start`` leaves processes that nobody watches over; here they are all below this one. It ends
when it is told to (SIGTERM), when the POC's owner is gone, or when the server has ended.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from nc_medfl.config import SiteConfig
from nc_medfl.federation.environments import poc_folder
from nc_medfl.federation.processes import adopt_orphans, family, stop

_PERIOD = 0.5
#: Ports are drawn from below those that the system gives to outgoing connections.
_PORTS = range(20000, 32000)
SERVER = "server"


def main(spec_file: str) -> None:
    """Hold a POC until it is to end."""
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    folder = Path(spec["folder"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    adopt_orphans()
    try:
        sites = {name: SiteConfig.model_validate(content) for name, content in spec["sites"].items()}
        port = free_port()
        _prepare(folder, sites, port)
        server = _start(folder, SERVER, spec["environment"])

        def lives() -> bool:
            return server.poll() is None and not poc_folder.is_orphan(folder)

        if not _listens(port, lives):
            return
        clients = {name: _start(folder, name, spec["environment"]) for name in sites}
        poc_folder.announce(folder, list(sites), port)
        while lives():
            time.sleep(_PERIOD)
            for name, client in clients.items():
                if client.poll() is not None:  # as FLARE's start.sh does: on a slow machine one may fail to log in
                    clients[name] = _start(folder, name, spec["environment"])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop(family(os.getpid())[:-1], grace=2.0)


def _listens(port: int, lives: Callable[[], bool]) -> bool:
    """Wait until something listens at a port of this machine; False if the server ends before it does.

    FLARE's clients try for some seconds only, which may not do where they and the server start on a few busy cores.
    """
    while lives():
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)) == 0:
                return True
        time.sleep(_PERIOD)
    return False


def free_port() -> int:
    """A port that nothing listens on, on any interface of this machine."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port


def project(sites: Iterable[str], port: int) -> dict[str, Any]:
    """The content of FLARE's ``project.yml`` for a POC."""
    admin = {"name": poc_folder.ADMIN, "type": "admin", "org": "poc", "role": "project_admin"}
    server = {"name": SERVER, "type": "server", "org": "poc", "fed_learn_port": port, "admin_port": port}
    clients = [{"name": name, "type": "client", "org": "poc"} for name in sites]
    builders = "nvflare.lighter.impl"
    return {
        "api_version": 3,
        "name": poc_folder.PROJECT,
        "participants": [server, *clients, admin],
        "builders": [
            {"path": f"{builders}.workspace.WorkspaceBuilder"},
            {"path": f"{builders}.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
            {"path": f"{builders}.cert.CertBuilder"},
            {"path": f"{builders}.signature.SignatureBuilder"},
        ],
    }


def _prepare(folder: Path, sites: dict[str, SiteConfig], port: int) -> None:
    from nvflare.tool.poc.poc_commands import prepare_poc_provision

    from nc_medfl.federation.kit import open_kit
    from nc_medfl.federation.site_setup import carry_out, plan_server, plan_site

    description = folder / "project.yml"
    description.write_text(yaml.safe_dump(project(sites, port)), encoding="utf-8")
    prepare_poc_provision(
        clients=[],
        number_of_clients=len(sites),
        workspace=str(folder / poc_folder.FLARE),
        docker_image=None,
        project_conf_path=str(description),
    )
    carry_out(plan_server(open_kit(poc_folder.kit_folder(folder, SERVER))))
    for name, config in sites.items():
        kit = open_kit(poc_folder.kit_folder(folder, name))
        carry_out(plan_site(kit, config, forbid_custom_code=False, replace=True))


def _start(folder: Path, name: str, more: dict[str, str]) -> subprocess.Popen[bytes]:
    kit = poc_folder.kit_folder(folder, name)
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        **more,
        # FLARE keeps settings of its own in the home folder; Python's packages must be found all the same.
        "HOME": str(home),
        "PYTHONUSERBASE": site.getuserbase(),
        "NVFLARE_POC_WORKSPACE": str(folder / poc_folder.FLARE),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    with (kit / "console.log").open("ab") as log:
        return subprocess.Popen(  # FLARE's own script, in a kit that we made
            ["bash", str(kit / "startup" / "sub_start.sh"), "--once"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=kit,
            env=environment,
        )


if __name__ == "__main__":
    main(sys.argv[1])
