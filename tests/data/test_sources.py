"""Reading label tables as hospitals save them."""

from __future__ import annotations

import gzip

import pytest

from nc_medfl.data.sources import read_table
from nc_medfl.errors import UserError

PLAIN = "file,Effusion\nMüller.dcm,1\nb.dcm,0\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("latin-1"),
        PLAIN.encode("utf-16"),
        PLAIN.replace("\n", "\r\n").replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        b'"file" , Effusion\n\n"M\xc3\xbcller.dcm",1\n"b.dcm","0"\n\n',
        # Columns that were once in use: NIH's own table ends every line with a comma.
        PLAIN.replace("\n", ",,\n").encode(),
        b"file,Effusion\nM\xc3\xbcller.dcm,1,,\nb.dcm,0\n",
        gzip.compress(PLAIN.encode(), mtime=0),
        # How a spreadsheet says which separator it used.
        b"\xef\xbb\xbfsep=;\r\n" + PLAIN.replace("\n", "\r\n").replace(",", ";").encode(),
        b'"sep=,"\n' + PLAIN.encode(),
        b"sep=|\n" + PLAIN.replace(",", "|").encode(),
    ],
)
def test_a_table_is_read_however_it_was_saved(tmp_path, content):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    table = read_table(path)
    assert table.columns.tolist() == ["file", "Effusion"]
    assert table.to_numpy().tolist() == [["Müller.dcm", "1"], ["b.dcm", "0"]]


_GZIP = gzip.compress(PLAIN.encode() * 1000, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"file,Effusion\n", "a header and no rows"),
        (b"file,a,a\nx,1,0\n", "column 'a' stands twice"),
        (b"file,a\nx,1,0\n", "row 2 has more cells"),
        (b"x.dcm,DOE^JOHN,1\ny.dcm,ROE^JANE,0\n", "first row is about an image"),
        (b"DOE^JOHN,1.2.840.1.5,1\nROE^JANE,1.2.840.1.6,0\n", "first row is about an image"),
        (b"DOE^JOHN,1,1\nROE^JANE,0,0\n", "a column's name stands twice"),
        (b"PK\x03\x04 a workbook", "is no text file"),
        (b"file,a\n\0,1\n", "is no text file"),
        (b"file,a\x1b[31m\nx,1\n", "holds control characters"),
        (b"file," + b"a" * 4000 + b"\nx,1\n", "name is too long"),
        (b'file,"a\nx,1\n' + b"y" * 200_000, "not readable as CSV"),
        (_GZIP[:-20], "cannot be read"),
        (_GZIP[:20] + bytes(byte ^ 0xFF for byte in _GZIP[20:40]) + _GZIP[40:], "cannot be read"),
    ],
)
def test_what_is_no_table_is_refused_without_quoting_its_rows(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_table(path)
    assert "DOE" not in str(caught.value)


def test_only_the_columns_that_are_wanted_are_kept(tmp_path):
    (tmp_path / "t.csv").write_text('a,report,"b\nc"\n1,"free, text",2\n3,,4\n')
    table = read_table(tmp_path / "t.csv", columns=("a", "b c", "z"))
    assert table.to_dict("list") == {"a": ["1", "3"], "b c": ["2", "4"]}
