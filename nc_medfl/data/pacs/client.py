"""The connection to an archive: queries by dicomweb-client, objects as the bytes that were stored, patient retries.

Objects are fetched over the client's session but not by its ``retrieve_instance``: that gives a parsed data set,
whose bytes, written again, are no longer those of the archive. Nothing here is logged: the addresses of DICOMweb
hold UIDs. For the same reason errors never quote those of the libraries, nor stand in their tracebacks.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import IO, Literal, TypeVar

import requests
from dicomweb_client import DICOMwebClient
from requests.auth import AuthBase
from urllib3.exceptions import ReadTimeoutError

from nc_medfl.data.pacs.address import CA, PASSWORD, TOKEN, USER, Address, Credentials
from nc_medfl.data.pacs.multipart import boundary_of, single_part
from nc_medfl.data.pacs.query import Answer
from nc_medfl.data.pacs.workers import bounded_map
from nc_medfl.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

#: (seconds to connect, seconds between two pieces of an answer).
TIMEOUT = (10.0, 60.0)
_CHUNK = 1 << 18
#: The transfer syntax the object is stored in, whatever it is (PS3.18 section 8.7.3).
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_LONGEST_WAIT = 300.0
_LONGEST_BACKOFF = 30.0
#: Seconds an archive that has never answered is waited for: its address is likely wrong.
_FIRST_PATIENCE = 5.0
#: How often one request is tried again when the server fails at it and at it alone.
_TRIES_OF_ONE = 3
_MOST_TRIES = 60
#: So many refusals without a success between them are the archive's, not the images'.
_REFUSALS_IN_A_ROW = 25
_BUSY = frozenset({408, 425, 429, 502, 503, 504})


class Refused(Exception):
    """One request failed for good; others may not. The text is short and names nobody, such as ``HTTP 404``."""


class Abandoned(Exception):
    """The work was stopped while a request was under way."""


@dataclass(frozen=True)
class Trouble:
    """What a failed request means.

    Attributes:
        kind: ``outage`` (the archive is away or busy: wait), ``failure`` (it failed at this request: try it a few
            times), ``refused`` (no use trying this one again), ``fatal`` (no use trying any).
        words: what to tell, without address or identifier.
        wait: seconds that the server asks to wait.
    """

    kind: Literal["outage", "failure", "refused", "fatal"]
    words: str
    wait: float = 0.0


class Archive:
    """A DICOMweb service, for several threads: each has a session of its own.

    Args:
        address: where it is.
        credentials: who asks.
        patience: seconds an outage may last before it ends the work.
        stop: ends waits and downloads when set.
    """

    def __init__(self, address: Address, credentials: Credentials, *, patience: float, stop: threading.Event) -> None:
        self.stop = stop
        self._address = address
        self._credentials = credentials
        self._patience = patience
        self._local = threading.local()
        self._met = False
        _silence()

    @property
    def shown(self) -> str:
        """How the archive is called in messages."""
        return self._address.shown

    def search_studies(self, filters: dict[str, str], limit: int, offset: int) -> Sequence[Answer]:
        """One page of the studies that match (PS3.18 section 10.6)."""
        fields = ["StudyDate", "AccessionNumber", "NumberOfStudyRelatedSeries"]
        return self._patiently(
            lambda: self._client.search_for_studies(limit=limit, offset=offset, fields=fields, search_filters=filters)
        )

    def search_series(self, study: str, limit: int, offset: int) -> Sequence[Answer]:
        """One page of the series of a study."""
        fields = ["Modality", "BodyPartExamined", "NumberOfSeriesRelatedInstances"]
        return self._patiently(lambda: self._client.search_for_series(study, limit=limit, offset=offset, fields=fields))

    def search_instances(self, study: str, series: str, limit: int, offset: int) -> Sequence[Answer]:
        """One page of the instances of a series."""
        return self._patiently(lambda: self._client.search_for_instances(study, series, limit=limit, offset=offset))

    def download(self, study: str, series: str, sop: str, stream: IO[bytes]) -> None:
        """Write an instance to a stream, byte for byte as it is stored.

        Raises:
            Refused: if the archive doesn't give it.
            Abandoned: if the work was stopped meanwhile.
            UserError: if the archive is gone or won't talk.
        """
        path = f"/studies/{study}/series/{series}/instances/{sop}"

        def attempt() -> None:
            # What an attempt that broke off has left.
            stream.seek(0)
            stream.truncate()
            for chunk in self._object(path):
                if self.stop.is_set():
                    raise Abandoned
                stream.write(chunk)

        self._patiently(attempt)

    def _object(self, path: str) -> Iterator[bytes]:
        # Pixels are compressed already; packing them again would cost the archive time for nothing.
        headers = {"Accept": _AS_STORED, "Accept-Encoding": "identity"}
        with self._session.get(self._address.url + path, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            media_type, boundary = boundary_of(response.headers.get("Content-Type", ""))
            chunks: Iterator[bytes] = response.iter_content(_CHUNK)
            if media_type == "multipart/related" and boundary:
                yield from single_part(chunks, boundary)
            elif media_type == "application/dicom":
                # Not as the standard has it, but some archives answer so.
                yield from chunks
            else:
                raise Refused("answer of another kind")

    @property
    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = _session(self._address, self._credentials)
        session: requests.Session = self._local.session
        return session

    @property
    def _client(self) -> DICOMwebClient:
        if not hasattr(self._local, "client"):
            # UIDs of real archives break the standard's rules; ours are checked for what an address can hold.
            made = DICOMwebClient(self._address.url, session=self._session, permissive_uid=True, timeout=TIMEOUT)
            made.set_http_retry_params(retry=False)
            self._local.client = made
        client: DICOMwebClient = self._local.client
        return client

    def _patiently(self, request: Callable[[], Result]) -> Result:
        """Make a request, again and again while there is hope (see :class:`Trouble`)."""
        effort = _Effort(self._patience if self._met else min(self._patience, _FIRST_PATIENCE))
        while True:
            if self.stop.is_set():
                raise Abandoned
            try:
                result = request()
            except (requests.RequestException, ValueError) as error:
                trouble = diagnose(error)
            else:
                self._met = True
                return result
            # Outside the handler, so that no traceback holds the library's error with its address.
            if trouble.kind == "fatal":
                raise UserError(f"{self.shown}: {trouble.words}")
            wait = effort.next_wait(trouble)
            if wait is None and trouble.kind != "outage":
                raise Refused(trouble.words)
            if wait is None:
                raise UserError(
                    f"{self.shown}: {trouble.words}, for {effort.seconds:.0f} seconds. See to the archive and give the "
                    "same command again to go on; what has been fetched is kept."
                )
            self.stop.wait(wait)


class _Effort:
    """How long and how often one request has been tried."""

    def __init__(self, patience: float) -> None:
        self._started = time.monotonic()
        self._deadline = self._started + patience
        self._tries = 0
        self._failures = 0

    @property
    def seconds(self) -> float:
        """Since the first try."""
        return time.monotonic() - self._started

    def next_wait(self, trouble: Trouble) -> float | None:
        """Seconds to wait before the next try, longer each time; None when there is to be none."""
        self._tries += 1
        self._failures += trouble.kind == "failure"
        if trouble.kind == "refused" or self._failures >= _TRIES_OF_ONE or self._tries >= _MOST_TRIES:
            return None
        wait = max(min(0.25 * 2.0**self._tries, _LONGEST_BACKOFF), trouble.wait)
        now = time.monotonic()
        if trouble.wait:
            # What the server asks for is no impatience of ours.
            self._deadline = max(self._deadline, now + 1.5 * trouble.wait)
        return wait if trouble.kind == "failure" or now + wait <= self._deadline else None


def outcomes(
    archive: Archive, call: Callable[[Item], Result], items: Sequence[Item], requests: int
) -> Iterator[tuple[Item, Result | Refused]]:
    """Call a function on every item, as many at once as requests are allowed; what the archive refused is a result.

    Each call makes its requests one after the other, so the bound on calls is one on requests.

    Raises:
        UserError: if the archive is gone, or refuses so much in a row that nothing is to be hoped.
        Exception: any other that a call raises.
    """
    in_a_row = 0
    # Closed at once on an error or Ctrl-C, not when the traceback is forgotten, so that the threads stop.
    with closing(bounded_map(call, items, workers=min(requests, len(items)), stop=archive.stop)) as results:
        for item, outcome in results:
            if isinstance(outcome, Refused):
                in_a_row += 1
                if in_a_row >= _REFUSALS_IN_A_ROW:
                    raise UserError(
                        f"{archive.shown}: refused {in_a_row} requests in a row, the last with '{outcome}'. What has "
                        "been fetched is kept: see to the archive and give the same command again to go on."
                    )
                yield item, outcome
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                in_a_row = 0
                yield item, outcome


def diagnose(error: Exception) -> Trouble:
    """What a failed request means for it and for the others."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _diagnose_status(error.response)
    if isinstance(error, requests.TooManyRedirects):
        return Trouble("fatal", "sends requests on to another address. Give that one.")
    if isinstance(error, requests.exceptions.SSLError):
        return Trouble("fatal", f"its certificate or TLS is not accepted. Set {CA} to its authority's PEM file.")
    if isinstance(error, requests.ReadTimeout) or any(isinstance(a, ReadTimeoutError) for a in error.args):
        return Trouble("failure", "no answer in time")
    if isinstance(error, requests.ConnectionError):
        return Trouble("outage", "can't be reached")
    if isinstance(error, (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError)):
        return Trouble("failure", "answer broken off")
    if isinstance(error, requests.JSONDecodeError):
        return Trouble("fatal", "does not answer in DICOM JSON. Give the address of its DICOMweb service.")
    if isinstance(error, requests.RequestException):
        return Trouble("fatal", "can't be asked. Check the address.")
    return Trouble("failure", "damaged answer")


def _diagnose_status(response: requests.Response) -> Trouble:
    status = response.status_code
    if status == 401:
        return Trouble("fatal", f"does not accept the credentials. Check {USER} and {PASSWORD}, or {TOKEN}.")
    if status == 407:
        return Trouble("fatal", "the proxy on the way asks for credentials. Set HTTPS_PROXY or NO_PROXY.")
    if status in _BUSY:
        return Trouble("outage", f"answers HTTP {status}", _asked_wait(response.headers.get("Retry-After", "")))
    return Trouble("failure" if status >= 500 else "refused", f"HTTP {status}")


def _asked_wait(retry_after: str) -> float:
    """Seconds of a Retry-After header (RFC 9110 section 10.2.3), at most five minutes; 0 if it says none."""
    try:
        if retry_after.strip().isdecimal():
            seconds = float(retry_after)
        else:
            moment = parsedate_to_datetime(retry_after)
            seconds = (moment - datetime.now(moment.tzinfo and timezone.utc)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)


class _Authorization(AuthBase):
    """Basic, bearer, or none. Given always, or requests would look for credentials in ~/.netrc."""

    def __init__(self, credentials: Credentials) -> None:
        self._value: str | None = None
        if credentials.user is not None:
            self._value = f"Basic {b64encode(':'.join(credentials.user).encode()).decode()}"
        elif credentials.token is not None:
            self._value = f"Bearer {credentials.token}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request


class _Session(requests.Session):
    """A session whose Host header is right: dicomweb-client sets one without the port."""

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        request.headers = {name: text for name, text in (request.headers or {}).items() if name != "Host"}
        return super().prepare_request(request)


def _session(address: Address, credentials: Credentials) -> requests.Session:
    session = _Session()
    session.auth = _Authorization(credentials)
    # Credentials go to the address that was given and to no other.
    session.max_redirects = 0
    if address.loopback:
        # No proxy stands between a machine and itself.
        session.trust_env = False
    bundle = credentials.authorities or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if credentials.authorities:
        # Else the environment's bundle would go before the session's own.
        session.trust_env = session.trust_env and not _bundle_in_environment()
    if bundle:
        session.verify = bundle
    return session


def _bundle_in_environment() -> bool:
    return bool(os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"))


def _silence() -> None:
    """Keep the libraries from logging and warning: what they say holds UIDs."""
    for name in ("urllib3", "requests", "dicomweb_client", "pydicom", "charset_normalizer"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
    for module in ("urllib3", "requests", "dicomweb_client", "pydicom"):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
