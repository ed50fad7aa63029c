"""What a failed request means, and how long it is tried again: against a real server on loopback."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nc_medfl.data.pacs.address import Credentials, parse_address
from nc_medfl.data.pacs.client import Abandoned, Archive, Refused, _asked_wait, outcomes
from nc_medfl.errors import UserError

OBJECT = b"an object"
WHOLE = (200, {"Content-Type": "application/dicom"}, OBJECT)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Answers its requests with ``replies``, the last again and again; an int status, or what it says whole."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.path, dict(self.headers)))
            reply = made.replies[min(len(made.asked), len(made.replies)) - 1]
            status, headers, body = (reply, {}, b"") if isinstance(reply, int) else reply
            self.send_response(status)
            for name, text in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None: ...

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.replies = [], [WHOLE]
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def archive_of(
    server: ThreadingHTTPServer, *, patience: float = 5.0, credentials: Credentials | None = None
) -> Archive:
    address = parse_address(f"dicomweb://127.0.0.1:{server.server_address[1]}/rs")
    return Archive(address, credentials or Credentials(), patience=patience, stop=threading.Event())


def download(archive: Archive) -> bytes:
    stream = io.BytesIO()
    archive.download("1.2", "3.4", "5.6", stream)
    return stream.getvalue()


def multipart(body: bytes, end: bytes = b"\r\n--e--") -> tuple[int, dict[str, str], bytes]:
    kind = 'multipart/related; type="application/dicom"; boundary=e'
    return 200, {"Content-Type": kind}, b"--e\r\nContent-Type: application/dicom\r\n\r\n" + body + end


def test_an_object_is_asked_for_as_it_is_stored(server):
    server.replies = [multipart(OBJECT)]
    assert download(archive_of(server)) == OBJECT
    path, headers = server.asked[0]
    assert path == "/rs/studies/1.2/series/3.4/instances/5.6"
    assert headers["Accept"] == 'multipart/related; type="application/dicom"; transfer-syntax=*'
    assert headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in headers


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_busy_server_is_asked_again(server, status):
    server.replies = [status, WHOLE]
    assert download(archive_of(server)) == OBJECT
    assert len(server.asked) == 2


def test_the_wait_a_server_asks_for_is_kept(server):
    server.replies = [(503, {"Retry-After": "2"}, b""), WHOLE]
    started = time.monotonic()
    assert download(archive_of(server, patience=1)) == OBJECT
    assert 2 <= time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("7", 7), ("soon", 0), ("-3", 0), ("99999", 300), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_waits_are_read(text, seconds):
    assert _asked_wait(text) == seconds


def test_a_wait_may_be_a_date():
    moment = datetime.now(timezone.utc) + timedelta(seconds=100)
    assert 97 < _asked_wait(format_datetime(moment, usegmt=True)) <= 100


def test_a_server_that_stays_busy_ends_the_work_in_one_line(server):
    server.replies = [503]
    with pytest.raises(
        UserError, match=r"^dicomweb://127.0.0.1:\d+/rs: answers HTTP 503, for \d seconds\. .* is kept\.$"
    ):
        download(archive_of(server, patience=0.6))


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_what_is_refused_is_not_asked_again(server, status):
    server.replies = [status]
    with pytest.raises(Refused, match=f"^HTTP {status}$"):
        download(archive_of(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (500, "HTTP 500"),
        (multipart(OBJECT, end=b""), "damaged answer"),
        ((200, {"Content-Type": "application/dicom", "Content-Length": "1000"}, OBJECT), "answer broken off"),
    ],
)
def test_what_the_server_fails_at_is_tried_three_times(server, reply, why):
    server.replies = [reply]
    with pytest.raises(Refused, match=why):
        download(archive_of(server))
    assert len(server.asked) == 3


def test_an_attempt_that_broke_off_leaves_nothing_in_the_file(server):
    server.replies = [(200, {"Content-Type": "application/dicom", "Content-Length": "1000"}, b"x" * 500), WHOLE]
    assert download(archive_of(server)) == OBJECT


def test_an_answer_of_another_kind_is_refused(server):
    server.replies = [(200, {"Content-Type": "text/html"}, b"<html>")]
    with pytest.raises(Refused, match="another kind"):
        download(archive_of(server))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (401, "does not accept the credentials"),
        ((302, {"Location": "http://127.0.0.1:9/elsewhere"}, b""), "another address"),
    ],
)
def test_what_no_request_can_overcome_ends_the_work(server, reply, message):
    server.replies = [reply]
    with pytest.raises(UserError, match=message):
        download(archive_of(server))
    assert len(server.asked) == 1


def test_an_answer_that_is_no_json_ends_the_work(server):
    server.replies = [(200, {"Content-Type": "text/html"}, b"<html>")]
    with pytest.raises(UserError, match="does not answer in DICOM JSON"):
        archive_of(server).search_studies({}, 10, 0)


def test_nobody_there_is_told_soon():
    address = parse_address("dicomweb://127.0.0.1:1/rs")
    archive = Archive(address, Credentials(), patience=600, stop=threading.Event())
    started = time.monotonic()
    with pytest.raises(UserError, match="can't be reached"):
        archive.search_studies({}, 10, 0)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        # base64 of 'anna:häsh' in UTF-8, by hand with coreutils.
        (Credentials(("anna", "häsh")), "Basic YW5uYTpow6RzaA=="),
        (Credentials(token="abc.def"), "Bearer abc.def"),
    ],
)
def test_who_asks_is_told_to_the_archive(server, credentials, header):
    download(archive_of(server, credentials=credentials))
    assert server.asked[0][1]["Authorization"] == header


def test_a_netrc_in_the_home_is_not_used(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    download(archive_of(server))
    assert "Authorization" not in server.asked[0][1]


def test_a_stop_ends_the_waiting(server):
    server.replies = [(503, {"Retry-After": "60"}, b"")]
    archive = archive_of(server, patience=100)
    threading.Timer(0.3, archive.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Abandoned):
        download(archive)
    assert time.monotonic() - started < 5


def test_refusals_of_everything_end_the_work(server):
    def refuse(item: int) -> None:
        raise Refused("HTTP 404")

    with pytest.raises(UserError, match="refused 25 requests in a row, the last with 'HTTP 404'"):
        list(outcomes(archive_of(server), refuse, range(100), 3))


def test_refusals_among_successes_do_not(server):
    def refuse_most(item: int) -> int:
        if item % 20:
            raise Refused("HTTP 404")
        return item

    results = list(outcomes(archive_of(server), refuse_most, range(100), 1))
    assert sum(isinstance(outcome, Refused) for _, outcome in results) == 95


def test_errors_hold_no_trace_of_the_address_that_was_asked(server):
    server.replies = [401]
    with pytest.raises(UserError) as caught:
        archive_of(server).search_series("1.2.840.99999", 10, 0)
    error: BaseException | None = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
