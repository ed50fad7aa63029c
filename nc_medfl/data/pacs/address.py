"""Where an archive is, and who asks: the address from the command line, credentials from the environment alone."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from nc_medfl.errors import UserError

USER, PASSWORD, TOKEN, CA = (f"NC_MEDFL_DICOMWEB_{what}" for what in ("USER", "PASSWORD", "TOKEN", "CA"))

_SCHEMES: Mapping[str, Literal["http", "https"]] = {
    "dicomweb": "http",
    "dicomwebs": "https",
    "dicomweb+http": "http",
    "dicomweb+https": "https",
}
_FORM = "Give dicomwebs://HOST:PORT/PATH, or dicomweb:// where there is no TLS."
_PATH = re.compile(r"[A-Za-z0-9/_.~%+-]*")
_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True)
class Address:
    """A DICOMweb service.

    Attributes:
        url: its base URL, ``http`` or ``https``, without a slash at the end.
        shown: how it is called in messages; never holds credentials.
        loopback: whether it is on this machine.
    """

    url: str
    shown: str
    loopback: bool

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.url.startswith("https:")


@dataclass(frozen=True)
class Credentials:
    """Who asks; printing it shows nothing.

    Attributes:
        user: name and password for basic authentication (RFC 7617).
        token: bearer token (RFC 6750).
        authorities: file of certificate authorities to trust instead of the system's.
    """

    user: tuple[str, str] | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    authorities: str | None = None

    def __bool__(self) -> bool:
        return self.user is not None or self.token is not None


def parse_address(text: str) -> Address:
    """Read a ``--from`` address.

    ``dicomweb://`` is plain HTTP, ``dicomwebs://`` (or ``dicomweb+https://``) is TLS.

    Raises:
        UserError: if it isn't one, or holds credentials, which the message doesn't repeat.
    """
    # Before anything else: what follows may quote the address.
    if "@" in text:
        raise UserError(f"--from: leave user and password out of the address. Set {USER} and {PASSWORD}, or {TOKEN}.")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UserError(f"--from: is no address. {_FORM}") from None
    scheme = _SCHEMES.get(parts.scheme)
    if parts.query or parts.fragment:
        raise UserError(f"--from: an address has no '?' or '#'; filters and credentials go elsewhere. {_FORM}")
    bare = parts.netloc.rsplit(":", 1)[0] if port is not None else parts.netloc.rstrip(":")
    if scheme is None or not _HOST.fullmatch(bare) or not _PATH.fullmatch(parts.path):
        raise UserError(f"--from {text!r}: is no address. {_FORM}")
    place = bare + (f":{port}" if port is not None else "")
    path = parts.path.rstrip("/")
    return Address(f"{scheme}://{place}{path}", f"{parts.scheme}://{place}{path}", _is_loopback(host))


def read_credentials(environment: Mapping[str, str]) -> Credentials:
    """Credentials and certificate authorities from environment variables; empty ones count as unset.

    Raises:
        UserError: if they contradict each other, are half given or can't be sent. Values are never repeated.
    """
    user, password, token, authorities = (environment.get(name, "") for name in (USER, PASSWORD, TOKEN, CA))
    if token and (user or password):
        raise UserError(f"{TOKEN} and {USER} are both set. Unset one of them.")
    if bool(user) != bool(password):
        given, lacking = (USER, PASSWORD) if user else (PASSWORD, USER)
        raise UserError(f"{given} is set and {lacking} is not. Set both, or {TOKEN}.")
    if ":" in user:
        raise UserError(f"{USER}: a user's name can't hold ':'. Check it.")
    if token and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UserError(f"{TOKEN}: holds a space, a line end or a letter outside ASCII. Set the bare token.")
    if authorities and not Path(authorities).exists():
        raise UserError(f"{CA}: no such file. Give a PEM file of certificate authorities.")
    return Credentials((user, password) if user else None, token or None, authorities or None)


def check_secrecy(address: Address, credentials: Credentials, *, insecure_http: bool) -> None:
    """Raise a UserError rather than send credentials over a network in clear text."""
    if credentials and not (address.encrypted or address.loopback or insecure_http):
        raise UserError(
            f"{address.shown}: credentials would cross the network in clear text. Use dicomwebs://, or allow it with "
            "--insecure-http."
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
