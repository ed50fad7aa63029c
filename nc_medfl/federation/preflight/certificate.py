"""Checks of a kit's certificate, and of the clock that it is judged by."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import NameOID

from nc_medfl.errors import UserError
from nc_medfl.federation.kit import Kit
from nc_medfl.federation.preflight.result import Result, failed, ok, warning

_RENEW_WITHIN = timedelta(days=30)
#: Off by more than the first is worth a word; by more than the second, the times in logs and audit trails are false.
_CLOCK_TOLERANCE, _CLOCK_LIMIT = timedelta(minutes=2), timedelta(minutes=10)
_NEW_KIT = "Ask the coordinator for a new kit."


@dataclass(frozen=True)
class Credentials:
    """A kit's certificate, its key, and the authority's certificate."""

    certificate: x509.Certificate
    authority: x509.Certificate
    key: PrivateKeyTypes


def read_credentials(kit: Kit) -> Credentials:
    """Read what a participant shows to be known.

    Raises:
        UserError: if a file is missing or no certificate or key.
    """
    try:
        return Credentials(
            x509.load_pem_x509_certificate(_bytes(kit.certificate)),
            x509.load_pem_x509_certificate(_bytes(kit.authority)),
            serialization.load_pem_private_key(_bytes(kit.key), password=None),
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"{kit.startup}: a certificate or key in it is damaged. {_NEW_KIT}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). Run as the kit's owner, or ask for it again."
        ) from (error)


def check_certificate(kit: Kit, credentials: Credentials, now: datetime) -> Result:
    """Whether the certificate is the kit's, of its authority, with its key, valid, and the key kept from others.

    Args:
        kit: opened.
        credentials: of it.
        now: the time, with a time zone.
    """
    problem = _mismatch(kit, credentials) or _open_key(kit)
    if problem:
        return problem
    own, root = credentials.certificate, credentials.authority
    end = min(own.not_valid_after_utc, root.not_valid_after_utc)
    text = f"{kit.name}, signed by {common_name(root.subject)} (key {key_name(root)}), valid until {end:%Y-%m-%d}"
    if now > end:
        return failed("certificate", f"{text}: expired.", f"{_NEW_KIT} If today isn't {now:%Y-%m-%d}, set the clock.")
    left = end - now
    if left < _RENEW_WITHIN:
        return warning("certificate", f"{text}: {left.days} days left.", "Ask the coordinator for a new kit in time.")
    return ok("certificate", f"{text} ({left.days} days)")


def _mismatch(kit: Kit, credentials: Credentials) -> Result | None:
    own, root = credentials.certificate, credentials.authority
    if own.public_key() != credentials.key.public_key():
        return failed("certificate", f"{kit.key.name} is not the key of {kit.certificate.name}.", _NEW_KIT)
    try:
        own.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        text = f"{kit.certificate.name} was not signed by the authority in {kit.authority.name}: files of two kits."
        return failed("certificate", text, _NEW_KIT)
    name = common_name(own.subject)
    if name != kit.name:
        return failed("certificate", f"it is of '{name}', but the kit is of '{kit.name}': files of two kits.", _NEW_KIT)
    return None


def _open_key(kit: Kit) -> Result | None:
    mode = stat.S_IMODE(kit.key.stat().st_mode)
    if mode & 0o077:
        text = f"{kit.key} can be read by others (mode {mode:04o})."
        return failed("certificate", text, f"Run: chmod 600 {kit.key}")
    return None


def check_clock(credentials: Credentials | None, now: datetime, server: datetime | None) -> Result:
    """Whether the clock agrees with the certificate and with the server's.

    Args:
        credentials: of the kit, if they can be read.
        now: this machine's time, with a time zone.
        server: the server's at the same moment, to the second; None if it isn't known.
    """
    said = f"{now.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    if credentials is not None:
        begin = max(credentials.certificate.not_valid_before_utc, credentials.authority.not_valid_before_utc)
        if now < begin:
            text = f"{said} is before the certificate's first moment, {begin:%Y-%m-%d %H:%M:%S} UTC."
            return failed("clock", text, "Set the clock (NTP).")
    if server is None:
        return ok("clock", f"{said}, not compared with the server's")
    off = abs(now - server)
    if off > _CLOCK_TOLERANCE:
        text = f"{said}, {off.total_seconds():.0f} s from the server's."
        report = failed if off > _CLOCK_LIMIT else warning
        return report("clock", text, "Set the clock (NTP), here or there.")
    return ok("clock", f"{said}, within {max(1, round(off.total_seconds()))} s of the server's")


def common_name(name: x509.Name) -> str:
    """The common name in a certificate's subject or issuer."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else "(no name)"


def key_name(certificate: x509.Certificate) -> str:
    """The first half of an authority's key identifier: what two people can compare over the telephone."""
    try:
        digest = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        digest = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    return digest[:8].hex()


def issuer_key_name(certificate: x509.Certificate) -> str:
    """The same of the authority that signed a certificate, as far as that says; else empty."""
    try:
        identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return ""
    return identifier[:8].hex() if identifier else ""
