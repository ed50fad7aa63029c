"""The one part of a multipart answer comes out byte for byte, however the body is cut into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.data.pacs.multipart import boundary_of, single_part


def cut(body: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in at), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges)]


def message(*parts: bytes, before: bytes = b"") -> bytes:
    body = before
    for part in parts:
        body += b"\r\n--edge\r\nContent-Type: application/dicom\r\n\r\n" + part
    return body.removeprefix(b"\r\n") + b"\r\n--edge--\r\n"


# Contents made of what delimiters are made of.
CONTENTS = st.lists(st.sampled_from([b"\r\n", b"--", b"--edg", b"edge", b"\r\n--", b"\r\n\r\n", b"x", b"\0"])).map(
    b"".join
)


@given(CONTENTS.filter(lambda c: b"\r\n--edge" not in c), st.lists(st.integers(0, 10**6), max_size=12))
def test_content_is_kept_to_the_byte_wherever_the_body_is_cut(content, at):
    if content.startswith(b"--edge"):
        content = b"x" + content
    assert b"".join(single_part(cut(message(content), at), b"edge")) == content


@given(st.binary(max_size=300), st.integers(0, 400))
def test_a_body_that_ends_early_is_an_error(content, length):
    body = message(content)
    if b"\r\n--edge" in content or length >= body.index(b"\r\n--edge--") + 10:
        return
    with pytest.raises(ValueError, match="cut short"):
        list(single_part([body[:length]], b"edge"))


def test_a_preamble_is_skipped_and_what_follows_the_end_is_read():
    source = iter([message(b"content", before=b"hello") + b"epilogue", b"more"])
    assert b"".join(single_part(source, b"edge")) == b"content"
    assert list(source) == []


def test_several_parts_are_an_error():
    with pytest.raises(ValueError, match="several parts"):
        list(single_part([message(b"one", b"two")], b"edge"))


def test_an_endless_body_without_a_part_is_an_error():
    with pytest.raises(ValueError, match="no part begins"):
        list(single_part((b"x" * 1000 for _ in range(10**9)), b"edge"))


def test_long_content_is_not_gathered_in_memory():
    body = [message(b"")[:-12], *[b"y" * 1000] * 1000, b"\r\n--edge--\r\n"]
    assert max(map(len, single_part(body, b"edge"))) < 3000


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ('multipart/related; type="application/dicom"; boundary=a-b', ("multipart/related", b"a-b")),
        ('Multipart/Related; boundary="a b"; type=x', ("multipart/related", b"a b")),
        ("application/dicom", ("application/dicom", b"")),
        ("multipart/related", ("multipart/related", b"")),
    ],
)
def test_boundaries(content_type, expected):
    assert boundary_of(content_type) == expected
