"""What the disk refuses is told in one line that says which file, and whether it was read or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nc_medfl.errors import UserError, writing


def told(place: Path, act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught, writing(place, "Give another."):
        act()
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_place_that_cannot_be_written_is_named_whatever_part_of_it_the_system_names(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    place = tmp_path / "file" / "out"
    expected = f"{place}: cannot be written (Not a directory). Give another."
    assert told(place, lambda: place.mkdir(parents=True)) == expected
    assert told(place, lambda: (place / "deeper.csv").write_text("x")) == expected
    assert told(place, lambda: (place.parent / ".out.tmp").write_text("x")) == expected


def test_an_error_without_a_file_is_of_the_writing(tmp_path: Path) -> None:
    def full() -> None:
        with Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")

    assert told(tmp_path, full) == f"{tmp_path}: cannot be written (No space left on device). Give another."


def test_a_file_elsewhere_was_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    message = told(tmp_path / "out", source.read_bytes)
    assert message == f"{source}: cannot be read (Is a directory). Check its permissions and the disk."
