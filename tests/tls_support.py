"""Small TLS servers on loopback, with certificates of authorities made on the spot."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.x509 import Certificate
from nvflare.lighter.utils import Identity, generate_cert, generate_keys, serialize_cert, serialize_pri_key

#: Certificates know whole seconds.
NOW = datetime.now(timezone.utc).replace(microsecond=0)


class Authority:
    """A certificate authority as FLARE's provisioning makes one."""

    def __init__(self, name: str = "federation", begin: datetime = NOW - timedelta(days=1), days: int = 360) -> None:
        self.name = name
        self.key, public = generate_keys()
        self.begin, self.end = begin, begin + timedelta(days=days)
        self.certificate: Certificate = generate_cert(
            Identity(name), Identity(name), self.key, public, ca=True, not_valid_before=begin, not_valid_after=self.end
        )

    def sign(
        self, name: str, hosts: Sequence[str] = (), begin: datetime | None = None, end: datetime | None = None
    ) -> tuple[Certificate, RSAPrivateKey]:
        """A certificate and its key; for a server if hosts are given."""
        key, public = generate_keys()
        certificate = generate_cert(
            Identity(name),
            Identity(self.name),
            self.key,
            public,
            not_valid_before=begin or self.begin,
            not_valid_after=end or self.end,
            server_default_host=hosts[0] if hosts else None,
            server_additional_hosts=list(hosts[1:]),
        )
        return certificate, key

    def write(self, folder: Path, base: str, pair: tuple[Certificate, RSAPrivateKey]) -> None:
        """``<base>.crt``, ``<base>.key`` and ``rootCA.pem``, as in a startup kit."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{base}.crt").write_bytes(serialize_cert(pair[0]))
        (folder / f"{base}.key").write_bytes(serialize_pri_key(pair[1]))
        (folder / f"{base}.key").chmod(0o600)
        (folder / "rootCA.pem").write_bytes(serialize_cert(self.certificate))


@contextmanager
def tls_server(folder: Path, *, reply: bytes = b"", tls13: bool = True, mutual: bool = True) -> Iterator[int]:
    """A server with ``server.crt`` and ``rootCA.pem`` of a folder; it answers what comes with ``reply``.

    Yields:
        Its port.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(folder / "rootCA.pem")
    context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    if not tls13:
        context.maximum_version = ssl.TLSVersion.TLSv1_2

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            if secured.recv(4096) and reply:
                secured.sendall(reply)

    with listening(serve) as port:
        yield port


@contextmanager
def listening(serve: object) -> Iterator[int]:
    """A port on loopback; each connection is handed to ``serve``, whose errors end only that connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    stopped = threading.Event()

    def loop() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(5)
            with connection:
                try:
                    serve(connection)  # type: ignore[operator]
                except OSError:
                    continue

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        stopped.set()
        thread.join(10)
        listener.close()
