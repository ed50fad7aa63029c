"""A real archive for tests: Orthanc with its DICOMweb plugin, private and short-lived, and a proxy before it.

Orthanc 1.10 listens on all interfaces whatever it is told; it refuses requests from other machines itself
(``RemoteAccessAllowed``), and asks for a password that is made up anew each time.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import requests

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def program() -> str:
    """Path of Orthanc; without it the test is skipped, or fails where NC_MEDFL_REQUIRE_ORTHANC is set."""
    found = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None or not PLUGIN.exists():
        why = "Orthanc is not installed: apt-get install orthanc orthanc-dicomweb"
        if os.environ.get("NC_MEDFL_REQUIRE_ORTHANC"):
            pytest.fail(why)
        pytest.skip(why)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Orthanc:
    """The archive, started in a session of its own; ``stop`` and ``start`` again keep what it holds."""

    user = "radiology"

    def __init__(self, folder: Path) -> None:
        self._program = program()
        self._folder = folder
        self.port = free_port()
        self.password = secrets.token_urlsafe(16)
        (folder / "storage").mkdir(parents=True)
        self._config = folder / "orthanc.json"
        self._config.write_text(
            json.dumps(
                {
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "HttpPort": self.port,
                    "DicomServerEnabled": False,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": True,
                    "RegisteredUsers": {self.user: self.password},
                    "Plugins": [str(PLUGIN)],
                    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                }
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        """The ``--from`` of this archive."""
        return f"dicomweb://127.0.0.1:{self.port}/dicom-web"

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(self._config)], stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 20
        while True:
            try:
                self.ask("get", "/system").raise_for_status()
                return
            except requests.ConnectionError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < end, "Orthanc did not start"
                time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as a power cut would; it has nothing to lose."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def store(self, path: Path) -> None:
        self.ask("post", "/instances", data=path.read_bytes()).raise_for_status()

    def delete(self, sop: str) -> None:
        for found in self.ask("post", "/tools/lookup", data=sop).json():
            self.ask("delete", f"/instances/{found['ID']}").raise_for_status()

    def ask(self, verb: str, path: str, **kwargs: Any) -> requests.Response:
        """A request to Orthanc, with its password unless other headers of authorization are given."""
        with requests.Session() as session:
            session.trust_env = False
            if "Authorization" not in kwargs.get("headers", {}):
                session.auth = (self.user, self.password)
            return session.request(verb, f"http://127.0.0.1:{self.port}{path}", timeout=10, **kwargs)


class Proxy:
    """Stands before the archive on loopback: counts, delays, and fails as told.

    Attributes:
        most: the most requests that were ever under way at once.
        paths: of all requests, in order, without queries.
        trouble: called with the path and how often it was asked for; an HTTP status to answer with, ``cut`` to break
            the answer off, or None to pass the request on.
        ignored: query parameters that the archive is not shown.
        hidden: attributes (tags) left out of its answers.
        token: if set, demanded as a bearer token; else what the client says of itself goes to the archive.

    Args:
        orthanc: the archive.
        certificate: PEM file of a certificate and its key, to speak TLS. (Debian 12's Orthanc dies of doing so.)
    """

    def __init__(self, orthanc: Orthanc, certificate: Path | None = None) -> None:
        self.orthanc = orthanc
        self.most = 0
        self.paths: list[str] = []
        self.hosts: set[str] = set()
        self.delay = 0.0
        self.trouble: Callable[[str, int], int | str | None] = lambda _path, _times: None
        self.ignored: tuple[str, ...] = ()
        self.hidden: tuple[str, ...] = ()
        self.token: str | None = None
        self._now = 0
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with proxy._lock:
                    proxy._now += 1
                    proxy.most = max(proxy.most, proxy._now)
                    path = urlsplit(self.path).path
                    proxy.paths.append(path)
                    proxy.hosts.add(self.headers["Host"])
                    times = proxy.paths.count(path)
                try:
                    time.sleep(proxy.delay)
                    status, headers, body, cut = proxy._answer(self.path, self.headers, times)
                finally:
                    # Before the answer leaves: once it has, the next request may come.
                    with proxy._lock:
                        proxy._now -= 1
                self.send_response(status)
                for name, text in headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if cut else body)
                if cut:
                    self.close_connection = True

            def log_message(self, *_args: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_args: object) -> None:
                """The client has gone, or the archive: nothing to print."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._scheme = "dicomwebs" if certificate else "dicomweb"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/dicom-web"

    @property
    def objects(self) -> list[str]:
        """SOP Instance UIDs of the objects asked for."""
        parts = [path.split("/") for path in self.paths]
        return [p[-1] for p in parts if len(p) > 2 and p[-2] == "instances"]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(
        self, target: str, asked: http.client.HTTPMessage, times: int
    ) -> tuple[int, dict[str, str], bytes, bool]:
        parts = urlsplit(target)
        if self.token is not None and asked.get("Authorization") != f"Bearer {self.token}":
            return 401, {}, b"who are you?", False
        trouble = self.trouble(parts.path, times)
        if isinstance(trouble, int):
            return trouble, {"Retry-After": "1"} if trouble in (429, 503) else {}, b"not now", False
        query = urlencode([(k, v) for k, v in parse_qsl(parts.query) if k not in self.ignored])
        headers = {"Accept": asked["Accept"], "Accept-Encoding": "identity"}
        if self.token is None:
            headers["Authorization"] = asked.get("Authorization", "")
        response = self.orthanc.ask("get", f"{parts.path}?{query}", headers=headers)
        body = response.content
        kind = response.headers.get("Content-Type", "")
        if self.hidden and "json" in kind:
            body = json.dumps(
                [{tag: e for tag, e in a.items() if tag not in self.hidden} for a in response.json()]
            ).encode()
        return response.status_code, {"Content-Type": kind}, body, trouble == "cut"
