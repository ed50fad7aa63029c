"""The way to the server, step by step, against real TLS servers on loopback."""

from __future__ import annotations

import socket
import struct
from datetime import timedelta
from pathlib import Path

import pytest
from tls_support import NOW, Authority, listening, tls_server

from nc_medfl.federation.kit import Kit
from nc_medfl.federation.preflight.certificate import read_credentials
from nc_medfl.federation.preflight.result import Result
from nc_medfl.federation.preflight.server import check_server

HTTP = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nDate: Tue, 03 Mar 2026 04:05:06 GMT\r\n\r\n"


@pytest.fixture(scope="module")
def ours() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def foreign() -> Authority:
    # Of the same name, as a second provisioning of the same project makes it.
    return Authority()


def kit_of(authority: Authority, folder: Path, port: int, **more: str) -> Kit:
    authority.write(folder / "startup", "client", authority.sign("st_mary"))
    settings = {"host": "127.0.0.1", "scheme": "http", "security": "mtls", "server_identity": "server", **more}
    return Kit(folder=folder, role="client", name="st_mary", project="federation", port=port, **settings)


def server_of(authority: Authority, folder: Path, hosts: tuple[str, ...] = ("127.0.0.1",), **times: object) -> Path:
    authority.write(folder, "server", authority.sign("server", hosts, **times))  # type: ignore[arg-type]
    return folder


def outcomes(results: list[Result]) -> dict[str, str]:
    return {result.name: result.outcome for result in results}


def failure(results: list[Result]) -> Result:
    (found,) = (result for result in results if result.outcome == "failed")
    assert found.remedy
    return found


WELL = {"server": "ok", "server's authority": "ok", "admission": "ok"}


def test_a_server_of_the_same_authority_takes_the_kit_and_tells_the_time(ours: Authority, tmp_path: Path) -> None:
    with tls_server(server_of(ours, tmp_path / "server"), reply=HTTP) as port:
        kit = kit_of(ours, tmp_path, port)
        found = check_server(kit, read_credentials(kit))
    assert outcomes(found.results) == WELL
    assert found.date is not None
    assert found.date.isoformat() == "2026-03-03T04:05:06+00:00"


@pytest.mark.parametrize("scheme", ["grpc", "tcp"])
def test_other_schemes_are_taken_without_a_time(ours: Authority, tmp_path: Path, scheme: str) -> None:
    # The plain TCP server says nothing of itself; a gRPC server sends its settings (an HTTP/2 frame).
    reply = b"\0\0\0\4\0\0\0\0\0" if scheme == "grpc" else b""
    with tls_server(server_of(ours, tmp_path / "server"), reply=reply) as port:
        kit = kit_of(ours, tmp_path, port, scheme=scheme)
        found = check_server(kit, read_credentials(kit))
    assert outcomes(found.results) == WELL
    assert found.date is None


def test_a_server_of_a_foreign_authority_is_named(ours: Authority, foreign: Authority, tmp_path: Path) -> None:
    with tls_server(server_of(foreign, tmp_path / "server"), reply=HTTP) as port:
        kit = kit_of(ours, tmp_path, port)
        found = check_server(kit, read_credentials(kit))
    assert outcomes(found.results) == {"server": "ok", "server's authority": "failed", "admission": "skipped"}
    assert "foreign authority, 'federation' (key " in failure(found.results).text


@pytest.mark.parametrize("tls13", [True, False], ids=["TLS 1.3", "TLS 1.2"])
def test_a_certificate_that_the_server_refuses_is_said(
    ours: Authority, foreign: Authority, tmp_path: Path, tls13: bool
) -> None:
    # Under TLS 1.3 the handshake succeeds and the refusal comes with the first read; under 1.2 it ends the handshake.
    with tls_server(server_of(ours, tmp_path / "server"), reply=HTTP, tls13=tls13) as port:
        kit = kit_of(foreign, tmp_path, port)
        (tmp_path / "startup" / "rootCA.pem").write_bytes((tmp_path / "server" / "rootCA.pem").read_bytes())
        found = check_server(kit, read_credentials(kit))
    assert failure(found.results).name == "admission"
    assert "refuses the certificate in client.crt" in failure(found.results).text
    assert "try for ever" in failure(found.results).remedy


def test_an_expired_server_is_told_from_a_foreign_one(ours: Authority, tmp_path: Path) -> None:
    hour = timedelta(hours=1)
    with tls_server(server_of(ours, tmp_path / "server", begin=NOW - 2 * hour, end=NOW - hour)) as port:
        kit = kit_of(ours, tmp_path, port)
        assert "has expired" in failure(check_server(kit, read_credentials(kit)).results).text


def test_a_server_from_the_future_means_a_wrong_clock(ours: Authority, tmp_path: Path) -> None:
    begin = NOW + timedelta(days=1)
    with tls_server(server_of(ours, tmp_path / "server", begin=begin, end=begin + timedelta(days=1))) as port:
        kit = kit_of(ours, tmp_path, port)
        assert "clock" in failure(check_server(kit, read_credentials(kit)).results).remedy


def test_another_server_of_the_same_authority_is_noticed(ours: Authority, tmp_path: Path) -> None:
    with tls_server(server_of(ours, tmp_path / "server"), reply=HTTP) as port:
        kit = kit_of(ours, tmp_path, port, server_identity="another")
        found = failure(check_server(kit, read_credentials(kit)).results)
    assert "is of 'server', but the kit expects 'another'" in found.text


@pytest.mark.parametrize(("scheme", "outcome"), [("grpc", "failed"), ("http", "ok")])
def test_the_hosts_name_counts_where_flare_compares_it(
    ours: Authority, tmp_path: Path, scheme: str, outcome: str
) -> None:
    with tls_server(server_of(ours, tmp_path / "server", hosts=("fl.example.org",)), reply=HTTP) as port:
        kit = kit_of(ours, tmp_path, port, scheme=scheme)
        found = outcomes(check_server(kit, read_credentials(kit)).results)
    assert found["server's authority"] == outcome


def test_a_server_that_asks_for_no_certificate_is_fine_where_the_kit_says_so(ours: Authority, tmp_path: Path) -> None:
    with tls_server(server_of(ours, tmp_path / "server"), reply=HTTP, mutual=False) as port:
        kit = kit_of(ours, tmp_path, port, security="tls")
        assert outcomes(check_server(kit, read_credentials(kit)).results) == WELL


def speak_plainly(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def hang_up(connection: socket.socket) -> None:
    connection.recv(1)
    # A reset instead of an orderly end, as a firewall sends it.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("serve", "text"), [(speak_plainly, "not as a FLARE server"), (hang_up, "ended the handshake")]
)
def test_what_speaks_no_tls_is_no_server(ours: Authority, tmp_path: Path, serve: object, text: str) -> None:
    with listening(serve) as port:
        kit = kit_of(ours, tmp_path, port)
        found = check_server(kit, read_credentials(kit)).results
    assert text in failure(found).text
    assert outcomes(found)["server"] == "ok"


def test_where_nobody_listens_or_nobody_is_the_first_step_says_so(ours: Authority, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    kit = kit_of(ours, tmp_path, port)
    found = check_server(kit, read_credentials(kit)).results
    assert outcomes(found) == {"server": "failed", "server's authority": "skipped", "admission": "skipped"}
    assert f"nothing listens at 127.0.0.1:{port}" in failure(found).text
    # A name of the domain that is reserved for names that lead nowhere (RFC 2606).
    nowhere = kit_of(ours, tmp_path, port, host="server.invalid")
    assert "leads to no address" in failure(check_server(nowhere, read_credentials(nowhere)).results).text


def test_no_encryption_is_warned_of(ours: Authority, tmp_path: Path) -> None:
    with listening(speak_plainly) as port:
        kit = kit_of(ours, tmp_path, port, security="clear")
        found = outcomes(check_server(kit, read_credentials(kit)).results)
    assert found == {"server": "ok", "server's authority": "warning"}
