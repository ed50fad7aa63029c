"""``nc-medfl init``: what it can not do is told. What it writes is tested with the wheel."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from nc_medfl.cli.main import app
from nc_medfl.errors import UserError


def test_a_folder_that_can_not_be_written_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    out = tmp_path / "file" / "below"
    done = CliRunner().invoke(app, ["init", str(out)])
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith(f"{out}: cannot be written")
    assert (tmp_path / "file").read_text() == "kept"
