"""The one part of a multipart answer, as it streams by (RFC 2046 section 5.1, PS3.18 section 8.6.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message

_MAX_HEADER = 65536


def boundary_of(content_type: str) -> tuple[str, bytes]:
    """Media type of an answer, lower case, and the boundary between its parts, empty if it has none."""
    message = Message()
    message["Content-Type"] = content_type
    return message.get_content_type(), (message.get_boundary() or "").encode("latin-1", "replace")


def single_part(chunks: Iterable[bytes], boundary: bytes) -> Iterator[bytes]:
    """Content of the only part of a multipart body, without its headers, byte for byte.

    Args:
        chunks: the body, cut anywhere.
        boundary: as the Content-Type of the answer states it.

    Raises:
        ValueError: if the body ends before its closing delimiter, holds several parts, or is no multipart body.
    """
    source = iter(chunks)
    delimiter = b"\r\n--" + boundary
    # The first delimiter needs no line end before it.
    buffer = _after_header(source, delimiter)
    while (at := buffer.find(delimiter)) < 0:
        safe = len(buffer) - len(delimiter)
        if safe > 0:
            yield bytes(buffer[:safe])
            del buffer[:safe]
        buffer += _next(source)
    yield bytes(buffer[:at])
    rest = buffer[at + len(delimiter) :]
    while len(rest) < 2:
        rest += _next(source)
    if rest[:2] != b"--":
        raise ValueError("several parts")
    # Read to the end, so that the connection can be used again.
    for _ in source:
        pass


def _after_header(source: Iterator[bytes], delimiter: bytes) -> bytearray:
    buffer = bytearray(b"\r\n")
    while True:
        start = buffer.find(delimiter)
        end = buffer.find(b"\r\n\r\n", start + len(delimiter)) if start >= 0 else -1
        if end >= 0:
            return buffer[end + 4 :]
        if len(buffer) > _MAX_HEADER:
            raise ValueError("no part begins")
        buffer += _next(source)


def _next(source: Iterator[bytes]) -> bytes:
    chunk = next(source, None)
    if chunk is None:
        raise ValueError("cut short")
    return chunk
