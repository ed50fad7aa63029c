"""One patient has one identifier, however the file spells it."""

from __future__ import annotations

import io
import unicodedata

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from nc_medfl.data.dicom.identifier import clean_identifier, patient_id_of


def as_read(raw: bytes, declared: str | list[str] | None) -> str:
    """The identifier of a file that holds these bytes; the element is patched in as pydicom would encode it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if declared is not None:
        dataset.SpecificCharacterSet = declared
    padded = raw + b" " * (len(raw) % 2)
    place = b"\x10\0\x20\0LO" + len(padded).to_bytes(2, "little")
    dataset.PatientID = "X" * len(padded)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=False, little_endian=True, implicit_vr=False)
    content = stream.getvalue().replace(place + b"X" * len(padded), place + padded)
    assert padded in content
    header = dcmread(io.BytesIO(b"\0" * 128 + b"DICM" + META + content))
    return patient_id_of(header)


META = b"\x02\0\0\0UL\x04\0\x1c\0\0\0" + b"\x02\0\x10\0UI\x14\0" + b"1.2.840.10008.1.2.1\0"


@pytest.mark.parametrize(
    ("raw", "declared"),
    [
        ("Müller-7".encode("latin-1"), "ISO_IR 100"),
        ("Müller-7".encode(), "ISO_IR 192"),
        (unicodedata.normalize("NFD", "Müller-7").encode(), "ISO_IR 192"),
        ("Müller-7".encode(), "ISO_IR 100"),  # declared wrongly
        ("Müller-7".encode(), None),  # not declared
        ("Müller-7".encode("latin-1"), None),
        ("Müller-7".encode("latin-1"), "ISO_IR 192"),  # declared wrongly
        ("Müller-7".encode("latin-1"), "NO SUCH SET"),
        ("Müller-7".encode("iso8859-2"), "ISO_IR 101"),
        ("Müller-7".encode("gb18030"), "GB18030"),
        ("  Müller-7 ".encode("latin-1"), "ISO_IR 100"),
        ("Müller-7\0\0".encode("latin-1"), "ISO_IR 100"),
    ],
)
def test_a_latin_identifier_is_one_in_every_encoding(raw, declared):
    assert as_read(raw, declared) == "Müller-7"


@pytest.mark.parametrize(
    ("raw", "declared"),
    [
        ("王小东12".encode("gb18030"), "GB18030"),
        ("王小东12".encode("gbk"), "GBK"),
        ("王小东12".encode(), "ISO_IR 192"),
        ("王小东12".encode("gb18030"), None),
        ("王小东12".encode("gb18030"), "ISO_IR 100"),
        ("王小东12".encode(), "GB18030"),  # declared wrongly: these bytes are no GB18030
    ],
)
def test_a_chinese_identifier_is_one_in_every_encoding(raw, declared):
    assert as_read(raw, declared) == "王小东12"


@pytest.mark.parametrize(
    ("raw", "declared"),
    [
        # PS3.5 annex H, example 1: the ideographic part of the name, in ISO 2022 IR 87.
        (b"\x1b$B;3ED\x1b(B", ["", "ISO 2022 IR 87"]),
        (b"\x1b$B;3ED\x1b(B", None),
        ("山田".encode(), "ISO_IR 192"),
    ],
)
def test_a_japanese_identifier_is_one_with_and_without_the_declaration(raw, declared):
    assert as_read(raw, declared) == "山田"


@pytest.mark.parametrize("spelling", ["P-1", " P-1", "P-1 ", "P-1\0", "P-1 \0 \0", "P-1\t", "P-1\u3000", "\ufeffP-1"])
def test_padding_is_no_part_of_an_identifier(spelling):
    assert clean_identifier(spelling) == "P-1"


def test_a_long_identifier_and_several_values_are_kept_whole():
    assert as_read(b"9" * 4000, None) == "9" * 4000
    assert as_read(b"A\\1", None) == "A\\1"
    assert as_read(b"A\\2", None) != as_read(b"A\\1", None)


def test_an_identifier_of_padding_is_none():
    assert as_read(b" \0 \0", None) == ""
    assert patient_id_of(Dataset()) == ""
