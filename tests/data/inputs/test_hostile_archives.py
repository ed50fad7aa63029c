"""Archives that somebody made to do harm, or that a disk has damaged: each file in them has an outcome, and no more."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from prepare_support import settings

from nc_medfl.data.dicom.quarantine import OUTCOMES, Rejected
from nc_medfl.data.inputs.content import content_of
from nc_medfl.data.inputs.files import SourceFile
from nc_medfl.data.inputs.listing import list_files
from nc_medfl.data.prepare import prepare
from nc_medfl.data.sourcelist import read_sources

#: Places in the headers of a zip's member (APPNOTE 4.3.7 and 4.3.12): flags and sizes.
_LOCAL, _CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
_FLAGS = {_LOCAL: 6, _CENTRAL: 8}
_INFLATED = {_LOCAL: 22, _CENTRAL: 24}


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.dcm", content)
    return stream.getvalue()


def patched(content: bytes, places: dict[bytes, int], kind: str, value: int) -> bytes:
    """A zip of one member with a number in both of its headers changed."""
    out = bytearray(content)
    for mark, offset in places.items():
        struct.pack_into(kind, out, content.index(mark) + offset, value)
    return bytes(out)


def tarred(*entries: tuple[str, bytes, str, bytes], compress: bool = False) -> bytes:
    """A tar of (name, type, link target, content)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz" if compress else "w") as archive:
        for name, kind, link, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, link
            entry.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def film(tmp_path, make_dicom, picture) -> bytes:
    make_dicom(tmp_path / "film.dcm", picture, PatientID="P1")
    return (tmp_path / "film.dcm").read_bytes()


def hostile(film: bytes) -> dict[str, tuple[bytes, set[str]]]:
    """Archives by name, and the outcomes that their members and they themselves may have."""
    zeros = bytes(30 * 2**20)
    regular = tarfile.REGTYPE
    links = tarred(
        ("passwd.dcm", tarfile.SYMTYPE, "/etc/passwd", b""),
        ("up.dcm", tarfile.SYMTYPE, "../../labels.csv", b""),
        ("hard.dcm", tarfile.LNKTYPE, "../../labels.csv", b""),
        ("pipe.dcm", tarfile.FIFOTYPE, "", b""),
        ("zero.dcm", tarfile.CHRTYPE, "", b""),
        ("../../escaped.dcm", regular, "", film[:-10]),
        ("/tmp/nc-medfl-escaped.dcm", regular, "", film[:-20]),
    )
    return {
        "encrypted.zip": (patched(zipped(a=film), _FLAGS, "<H", 1), {"undecodable"}),
        "claims-much.zip": (patched(zipped(a=film), _INFLATED, "<I", 2**32 - 2), {"too_large"}),
        "claims-little.zip": (patched(zipped(a=zeros), _INFLATED, "<I", 500), {"undecodable", "truncated"}),
        "bomb.zip": (zipped(a=zeros, b=zeros), {"not_dicom", "empty_file"}),
        "nested.zip": (zipped(inner=zipped(inner=zipped(a=film))), {"not_dicom"}),
        "bomb.tar.gz": (tarred(("a.dcm", regular, "", zeros), compress=True), {"not_dicom"}),
        "links.tar": (links, {"not_dicom", "truncated"}),
        "no.tar": (b"this is no tar" * 100, {"undecodable", "truncated"}),
        "cut.tar.gz": (tarred(("a.dcm", regular, "", film), compress=True)[:-200], {"truncated"}),
        "twice.tar.gz": (gzip.compress(gzip.compress(film)), {"undecodable", "truncated"}),
        "empty.zip": (b"", {"undecodable", "truncated", "empty_file"}),
    }


def tree(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_hostile_archives_have_outcomes_and_nothing_is_written_outside(tmp_path, film, make_dicom, picture):
    images = tmp_path / "images"
    make_dicom(images / "good.dcm", np.ascontiguousarray(picture[::-1]), PatientID="P2")
    expected = hostile(film)
    for name, (content, _) in expected.items():
        (images / name).write_bytes(content)
    (tmp_path / "labels.csv").write_text("file,Effusion\ngood.dcm,1\n")
    (tmp_path / "salt").write_bytes(b"0123456789abcdef")
    before = tree(tmp_path)
    summary = prepare(settings(tmp_path, tmp_path / "out" / "store"))
    outside = {name: time for name, time in tree(tmp_path).items() if not name.startswith("out")}
    assert outside == before
    assert not Path("/tmp/nc-medfl-escaped.dcm").exists()
    assert summary.images == 1
    assert set(summary.counts) <= set(OUTCOMES)
    found: dict[str, set[str]] = {}
    for source in read_sources(tmp_path / "out" / "store"):
        found.setdefault(source.path.name, set()).add(source.outcome)
    for name, (_, allowed) in expected.items():
        assert found[name] <= allowed | {"no_label"}, name
    # Of what lies outside nothing was read: no member has the bytes of a file that a link points to.
    assert all("labels.csv" not in str(source.path) for source in read_sources(tmp_path / "out" / "store"))


def outcome_of(file: SourceFile) -> str:
    try:
        assert len(content_of(file)) < 2**26
    except Rejected as rejected:
        return rejected.outcome
    return "read"


def test_a_zip_whose_directory_points_before_its_beginning_is_damaged(tmp_path, film):
    content = bytearray(zipped(a=film))
    # The directory's place as its end states it is believed: what lies before would be something prepended.
    struct.pack_into("<I", content, content.rindex(b"PK\x05\x06") + 16, len(content) + 100)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(content)
    assert {outcome_of(file) for file in list_files(tmp_path / "in")} == {"undecodable"}


def test_damaged_archives_give_outcomes_only_and_soon(tmp_path, film):
    choose = random.Random(7)
    wholes = {
        "a.zip": zipped(a=film, b=film[::-1]),
        "a.tar": tarred(*((f"{n}.dcm", tarfile.REGTYPE, "", film) for n in range(2))),
        "a.tar.gz": tarred(("a.dcm", tarfile.REGTYPE, "", film), compress=True),
    }
    for number in range(120):
        name, whole = choose.choice(list(wholes.items()))
        content = bytearray(whole)
        for _ in range(choose.randint(1, 20)):
            # Headers are hit more often than their share of the bytes.
            at = choose.choice([choose.randrange(len(content)), choose.randrange(512), -1 - choose.randrange(512)])
            content[at] = choose.randrange(256)
        if choose.random() < 0.3:
            del content[choose.randrange(len(content)) :]
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(content)
        start = time.perf_counter()
        found = [outcome_of(file) for file in list_files(folder)]
        assert set(found) <= {"read", *OUTCOMES}
        assert time.perf_counter() - start < 10


def test_what_is_packed_and_not_opened_is_told_without_its_name(tmp_path, film):
    images = tmp_path / "images"
    images.mkdir()
    (images / "one.dcm").write_bytes(film)
    assert list_files(images).remarks == ()
    (images / "Doe.dcm.gz").write_bytes(gzip.compress(film))
    with zipfile.ZipFile(images / "outer.zip", "w") as archive:
        archive.writestr("Doe/inner.tar.gz", tarred(("a.dcm", tarfile.REGTYPE, "", film), compress=True))
    # A damaged archive has a remark of its own, and a compressed NIfTI is opened.
    (images / "broken.zip").write_bytes(b"PK\x03\x04")
    (images / "volume.nii.gz").write_bytes(gzip.compress(b"no volume"))
    damaged, packed = list_files(images).remarks
    assert packed.startswith("2 files are packed")
    assert "1 of 2 archives" in damaged
    assert "Doe" not in packed
