"""The folder a run fills: what it may empty, and what it must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from nc_medfl.errors import UserError
from nc_medfl.federation.run_folder import fresh_folder, read_run


def test_a_folder_is_emptied_only_if_a_run_made_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fresh_folder(out)
    (out / "old.csv").write_text("x")
    fresh_folder(out)
    assert not (out / "old.csv").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not an earlier run"):
        fresh_folder(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("inside", [".", "sites", "sites/a/store"])
def test_what_is_still_needed_is_never_emptied(tmp_path: Path, inside: str) -> None:
    out = tmp_path / "run"
    fresh_folder(out)
    (out / "sites" / "a" / "store").mkdir(parents=True)
    with pytest.raises(UserError, match=r"would be emptied, .* Give --out another folder"):
        fresh_folder(out, keep=[out / inside])
    assert (out / "sites" / "a" / "store").is_dir()
    fresh_folder(out, keep=[tmp_path, tmp_path / "runs"])
    assert not (out / "sites").exists()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        fresh_folder(tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\)"):
        fresh_folder(tmp_path / "file" / "below")


def test_a_file_in_place_of_a_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "model_best.pt").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"no run.json, so not a run"):
        read_run(tmp_path / "model_best.pt")
