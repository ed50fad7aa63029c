"""Startup kits: what ``nvflare provision`` hands to a hospital, read and made ready for nc_medfl's jobs.

A kit is a folder with ``startup`` (certificate, key, scripts: never changed here) and ``local`` (what its owner
decides). FLARE reads ``local/resources.json`` and ``local/authorization.json`` in place of the ``.default`` files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nc_medfl.errors import UserError

Role = Literal["client", "server", "admin"]
Json = dict[str, Any]

ALLOW_LIST = "class_allow_list"
#: What must stand in a site's ``class_allow_list`` (with the dot: FLARE takes it for a package).
OUR_CLASSES = "nc_medfl."
RESOURCES = "resources.json"
AUTHORIZATION = "authorization.json"
SITE_CONFIG = "site.yaml"

#: The right to send a job with code of its own ("bring your own code").
CUSTOM_CODE = "byoc"
#: Where FLARE's server keeps jobs unless told otherwise: shared by all servers of a machine, and lost at a restart.
_SHARED_STORAGE = "/tmp/nvflare/"  # noqa: S108  # a text that is looked for, not a place that is used
_NEVER = {"none", "no"}


@dataclass(frozen=True)
class Kit:
    """A startup kit on disk.

    Attributes:
        folder: it.
        role: whose it is.
        name: of the participant, as the scripts in it announce it.
        project: name of the federation.
        host: where the server is to be reached.
        port: of the server.
        scheme: ``http`` (FLARE's default), ``grpc`` or ``tcp``.
        security: ``mtls`` (both sides show a certificate), ``tls`` or ``clear``.
        server_identity: the name that the server's certificate must carry.
    """

    folder: Path
    role: Role
    name: str
    project: str
    host: str
    port: int
    scheme: str
    security: str
    server_identity: str

    @property
    def startup(self) -> Path:
        """Folder of certificate, key and scripts."""
        return self.folder / "startup"

    @property
    def local(self) -> Path:
        """Folder of what its owner decides."""
        return self.folder / "local"

    @property
    def certificate(self) -> Path:
        """The participant's certificate (PEM)."""
        return self.startup / ("server.crt" if self.role == "server" else "client.crt")

    @property
    def key(self) -> Path:
        """The private key of the certificate (PEM)."""
        return self.certificate.with_suffix(".key")

    @property
    def authority(self) -> Path:
        """The certificate of the authority that signed everyone's (PEM)."""
        return self.startup / "rootCA.pem"


def open_kit(folder: str | Path) -> Kit:
    """Read what a startup kit says of itself.

    Raises:
        UserError: if the folder is no startup kit, or its configuration can't be read.
    """
    folder = Path(folder)
    paths = (folder / "startup" / name for name in _READERS)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{folder}: no startup/fed_client.json, so not a startup kit. Give the folder that holds 'startup' and "
            "'local', as 'nvflare provision' made it."
        )
    content = read_json(path)
    try:
        return _READERS[path.name](folder, content)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: not the configuration of a startup kit. Ask the coordinator for the kit again."
        ) from (error)


def _read_client(folder: Path, content: Json) -> Kit:
    server, client = content["servers"][0], content["client"]
    host, port = _address(server["service"]["target"])
    return Kit(
        folder=folder,
        role="client",
        name=_announced_name(folder) or str(client["fqsn"]).rsplit(".", 1)[-1],
        project=str(server["name"]),
        host=host,
        port=port,
        scheme=str(server["service"].get("scheme", "http")),
        security=str(client.get("connection_security", "mtls")),
        server_identity=str(server.get("identity", "")),
    )


def _read_server(folder: Path, content: Json) -> Kit:
    server = content["servers"][0]
    name, port = _address(server["service"]["target"])
    return Kit(
        folder=folder,
        role="server",
        name=str(server.get("admin_server", name)),
        project=str(server["name"]),
        host="localhost",
        port=port,
        scheme=str(server["service"].get("scheme", "http")),
        security=str(server.get("connection_security", "mtls")),
        server_identity=str(server.get("admin_server", name)),
    )


def _read_admin(folder: Path, content: Json) -> Kit:
    admin = content["admin"]
    return Kit(
        folder=folder,
        role="admin",
        name=str(admin["username"]),
        project=str(admin["project_name"]),
        host=str(admin["host"]),
        port=int(admin["port"]),
        scheme=str(admin.get("scheme", "http")),
        security=str(admin.get("connection_security", "mtls")),
        server_identity=str(admin.get("server_identity", "")),
    )


_READERS = {"fed_client.json": _read_client, "fed_server.json": _read_server, "fed_admin.json": _read_admin}


def _address(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host.strip("[]"), int(port)


def _announced_name(folder: Path) -> str:
    """The name under which ``start.sh`` has FLARE register, or nothing if the script doesn't say."""
    script = folder / "startup" / "sub_start.sh"
    try:
        found = re.search(r"\buid=(\S+)", script.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return ""
    return found[1] if found else ""


def read_json(path: Path) -> Json:
    """Read a JSON object.

    Raises:
        UserError: if the file is missing, unreadable or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON. Mend it, or take the '.default' file beside it.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object. Mend it, or take the '.default' file beside it.")
    return content


def policy_file(kit: Kit, name: str) -> Path:
    """The file that FLARE goes by: ``local/<name>``, or the default beside it where the owner has none.

    Raises:
        UserError: if there is neither.
    """
    for path in (kit.local / name, kit.local / f"{name}.default"):
        if path.is_file():
            return path
    raise UserError(f"{kit.local}: neither {name} nor {name}.default in it. Ask the coordinator for the kit again.")


def allowed_classes(resources: Mapping[str, Any]) -> list[str]:
    """The entries of a ``class_allow_list``; FLARE's own list where there is none, as FLARE has it."""
    from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST

    given = resources.get(ALLOW_LIST)
    return list(DEFAULT_CLASS_ALLOW_LIST) if given is None else [str(entry) for entry in given]


def allows_our_classes(resources: Mapping[str, Any]) -> bool:
    """Whether a site with these resources builds the components of nc_medfl's jobs."""
    return not {"*", OUR_CLASSES, OUR_CLASSES.rstrip(".")}.isdisjoint(allowed_classes(resources))


def with_our_classes(resources: Mapping[str, Any]) -> Json:
    """Resources with ``nc_medfl.`` in the ``class_allow_list``, and all else as it was."""
    if allows_our_classes(resources):
        return dict(resources)
    return {**resources, ALLOW_LIST: [*allowed_classes(resources), OUR_CLASSES]}


def with_own_storage(resources: Mapping[str, Any], folder: Path) -> Json:
    """A server's resources with jobs and snapshots kept in a folder of its own instead of under ``/tmp``."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner) for inner in value]
        if isinstance(value, str) and value.startswith(_SHARED_STORAGE):
            return str(folder / value.removeprefix(_SHARED_STORAGE))
        return value

    out: Json = moved(dict(resources))
    return out


def custom_code_roles(policy: Mapping[str, Any]) -> dict[str, str]:
    """The roles whose jobs may bring code of their own, and under which condition, by an authorization policy."""
    out = {}
    for role, rights in policy["permissions"].items():
        condition = rights.get(CUSTOM_CODE, "none") if isinstance(rights, dict) else rights
        conditions = condition if isinstance(condition, list) else [condition]
        if not {str(c).strip().lower() for c in conditions} <= _NEVER:
            out[str(role)] = ", ".join(str(c) for c in conditions)
    return out


def without_custom_code(policy: Mapping[str, Any]) -> Json:
    """An authorization policy under which no role's job may bring code of its own, and all else as it was."""
    permissions = {}
    for role, rights in policy["permissions"].items():
        # A role with one condition for everything has each right spelled out, to take one away.
        spelled = dict(rights) if isinstance(rights, dict) else dict.fromkeys(_all_rights(), rights)
        permissions[role] = {**spelled, CUSTOM_CODE: "none"}
    return {**policy, "permissions": permissions}


def _all_rights() -> list[str]:
    """Every right that FLARE 2.9 asks a policy for: its categories, and the commands in none of them."""
    from nvflare.apis.fl_constant import AdminCommandNames
    from nvflare.security.security import COMMAND_CATEGORIES

    commands = {value for name, value in vars(AdminCommandNames).items() if not name.startswith("_")}
    single = sorted(commands - set(COMMAND_CATEGORIES))
    return [*sorted(set(COMMAND_CATEGORIES.values())), *single, "server-predeployed-flwr"]
