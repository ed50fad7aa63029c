"""Checks of the way to the server: reached, of the right authority, and willing to take this kit's certificate.

FLARE's client says little when one of these fails and tries for ever, so each is tried by itself. Nothing but a TLS
handshake and, where the server speaks HTTP, a request for ``/`` is sent.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from cryptography import x509

from nc_medfl.federation.kit import Kit
from nc_medfl.federation.preflight.certificate import Credentials, common_name, issuer_key_name, key_name
from nc_medfl.federation.preflight.result import Result, failed, ok, skipped, warning

REACHED, AUTHORITY, ADMITTED = "server", "server's authority", "admission"

_SECONDS = 10.0
#: A server that refuses a certificate under TLS 1.3 says so only after the handshake; this is how long it is given.
_SECONDS_TO_REFUSE = 3.0
#: OpenSSL's reasons (X509_V_ERR_...) that have a remedy of their own.
_NOT_YET_VALID, _EXPIRED = 9, 10
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
_FOREIGN_REMEDY = (
    "The kit and the server come from different provisionings. Ask the coordinator for a kit from the one that the "
    "server was started from, or to start the server from this kit's."
)


@dataclass(frozen=True)
class ServerCheck:
    """What was found on the way to the server.

    Attributes:
        results: one a question.
        date: the server's time, to the second, if it told.
    """

    results: list[Result]
    date: datetime | None = None


def check_server(kit: Kit, credentials: Credentials | None) -> ServerCheck:
    """Connect as FLARE's client would, step by step, up to the first that fails.

    Args:
        kit: opened.
        credentials: of it; None if they can't be read, and then only the connection is tried.
    """
    address = f"{kit.host}:{kit.port}"
    connection = _connect(kit.host, kit.port)
    if isinstance(connection, Result):
        return ServerCheck([connection, _not_tried(AUTHORITY), _not_tried(ADMITTED)])
    reached = ok(REACHED, f"{address} answers")
    with connection:
        if kit.security == "clear":
            text = f"{address} is spoken to without encryption (connection_security: clear)."
            return ServerCheck([reached, warning(AUTHORITY, text, "Use it only behind a proxy that encrypts.")])
        if credentials is None:
            return ServerCheck([reached, _not_tried(AUTHORITY), _not_tried(ADMITTED)])
        secured = _handshake(kit, credentials, connection)
        if isinstance(secured, Result):
            late = [] if secured.name == ADMITTED else [_not_tried(ADMITTED)]
            return ServerCheck([reached, secured, *late])
        with secured:
            return _after_handshake(kit, credentials, secured, reached)


def _not_tried(name: str) -> Result:
    return skipped(name, "not tried, since the step before failed")


def _connect(host: str, port: int) -> socket.socket | Result:
    address = f"{host}:{port}"
    try:
        return socket.create_connection((host, port), timeout=_SECONDS)
    except socket.gaierror:
        return failed(
            REACHED,
            f"the name '{host}' leads to no address.",
            "Enter it in the DNS or /etc/hosts here, or have the kit made for a name that is known here.",
        )
    except ConnectionRefusedError:
        return failed(
            REACHED, f"nothing listens at {address}.", "Start the server, or mend the port (fed_client.json)."
        )
    except (TimeoutError, OSError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else str(error.strerror).lower()
        return failed(REACHED, f"{address} can't be reached ({reason}).", "Open the way out to it in the firewall.")


def _handshake(kit: Kit, credentials: Credentials, connection: socket.socket) -> ssl.SSLSocket | Result:
    address = f"{kit.host}:{kit.port}"
    try:
        return _context(kit).wrap_socket(connection, server_hostname=kit.host)
    except ssl.SSLCertVerificationError as error:
        return _unverified(kit, credentials, error)
    except ssl.SSLError as error:
        if "ALERT" in str(error.reason):
            return _refused(kit)
        text = f"{address} answers, but not as a FLARE server ({str(error.reason).replace('_', ' ').lower()})."
        return failed(AUTHORITY, text, "Look for a proxy on the way, or mend host and port.")
    except OSError as error:
        text = f"{address} ended the handshake ({type(error).__name__})."
        return failed(AUTHORITY, text, "Look for a proxy or firewall on the way, or mend host and port.")


def _context(kit: Kit) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # FLARE compares the name in the certificate itself; so do we, afterwards.
    context.check_hostname = False
    context.load_verify_locations(kit.authority)
    if kit.security == "mtls":
        context.load_cert_chain(kit.certificate, kit.key)
    if kit.scheme == "grpc":
        context.set_alpn_protocols(["h2"])
    return context


def _unverified(kit: Kit, credentials: Credentials, error: ssl.SSLCertVerificationError) -> Result:
    address = f"{kit.host}:{kit.port}"
    if error.verify_code == _EXPIRED:
        text = f"the certificate of {address} has expired."
        return failed(AUTHORITY, text, "The coordinator has to provision the server anew. Is the clock here right?")
    if error.verify_code == _NOT_YET_VALID:
        return failed(AUTHORITY, f"the certificate of {address} isn't valid yet.", "Set the clock (NTP).")
    theirs = _shown_authority(kit)
    ours = f"'{common_name(credentials.authority.subject)}' (key {key_name(credentials.authority)})"
    text = f"{address} shows a certificate of a foreign authority{theirs}; this kit trusts {ours} alone."
    return failed(AUTHORITY, text, _FOREIGN_REMEDY)


def _shown_authority(kit: Kit) -> str:
    """Who signed the certificate that a server shows, without any trust in it."""
    try:
        pem = ssl.get_server_certificate((kit.host, kit.port), timeout=_SECONDS)
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except (OSError, ValueError):
        return ""
    return f", '{common_name(certificate.issuer)}' (key {issuer_key_name(certificate) or 'unknown'})"


def _after_handshake(kit: Kit, credentials: Credentials, secured: ssl.SSLSocket, reached: Result) -> ServerCheck:
    shown = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    authority = _check_name(kit, credentials, shown)
    if kit.security != "mtls":
        text = f"the server asks for no certificate (connection_security: {kit.security})"
        return ServerCheck([reached, authority, ok(ADMITTED, text)])
    admitted, date = _admission(kit, secured)
    return ServerCheck([reached, authority, admitted], date)


def _check_name(kit: Kit, credentials: Credentials, shown: x509.Certificate) -> Result:
    root = credentials.authority
    name = common_name(shown.subject)
    if kit.server_identity and name != kit.server_identity:
        text = f"the server's certificate is of '{name}', but the kit expects '{kit.server_identity}'."
        return failed(AUTHORITY, text, "Mend host and port, or ask the coordinator which server this kit is for.")
    if kit.scheme == "grpc" and kit.host not in (hosts := _hosts(shown)):
        text = f"the server's certificate is for {', '.join(hosts) or 'no host'}, not for {kit.host}; gRPC refuses it."
        return failed(AUTHORITY, text, "Have the coordinator name this host in project.yml (default_host, host_names).")
    return ok(AUTHORITY, f"'{name}' is signed by '{common_name(root.subject)}' (key {key_name(root)}), as this kit is")


def _hosts(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _admission(kit: Kit, secured: ssl.SSLSocket) -> tuple[Result, datetime | None]:
    """Whether the server goes on talking, once it has seen this kit's certificate; and its time, if it tells."""
    if kit.scheme == "grpc":
        hello = _HTTP2_HELLO
    elif kit.scheme == "http":
        hello = f"GET / HTTP/1.1\r\nHost: {kit.host}\r\nConnection: close\r\n\r\n".encode()
    else:
        hello = b""
    secured.settimeout(_SECONDS_TO_REFUSE)
    try:
        if hello:
            secured.sendall(hello)
        answer = secured.recv(4096)
    except TimeoutError:
        if hello:
            text = f"the server does not answer within {_SECONDS_TO_REFUSE:.0f} s."
            return warning(ADMITTED, text, "It may be overloaded: try again."), None
        # A plain TCP server waits for us; a refusal would have come by now.
        return ok(ADMITTED, "the server takes this kit's certificate"), None
    except (ssl.SSLError, OSError):
        return _refused(kit), None
    if not answer:
        return _refused(kit), None
    return ok(ADMITTED, "the server takes this kit's certificate"), _date(answer)


def _refused(kit: Kit) -> Result:
    text = f"the server refuses the certificate in {kit.certificate.name}: it is of an authority foreign to it."
    return failed(ADMITTED, text, f"FLARE would try for ever. {_FOREIGN_REMEDY}")


def _date(answer: bytes) -> datetime | None:
    """The ``Date`` of an HTTP answer."""
    for line in answer.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"date":
            try:
                found = parsedate_to_datetime(value.strip().decode("ascii"))
            except (ValueError, UnicodeDecodeError):
                return None
            return found if found.tzinfo else found.replace(tzinfo=timezone.utc)
    return None
