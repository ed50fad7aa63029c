"""The command line of preparation, as a user types it."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from nc_medfl.cli.prepare import prepare
from nc_medfl.errors import UserError


@pytest.fixture
def call():
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(prepare)

    def invoke(*words: object):
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


def test_nih_images_become_a_store_and_the_summary_is_json(call, shared_data, tmp_path):
    folder = shared_data / "nih1000"
    words = ("--source", "nih", "--images", folder / "images", "--labels", folder / "Data_Entry_2017.csv")
    result = call(*words, "--out", tmp_path / "store", "--size", 64, "--workers", 1, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["images"], summary["patients"], summary["counts"]) == (710, 196, {"ok": 710})
    assert summary["store"] == str(tmp_path / "store")
    assert sum(summary["splits"].values()) == 710
    assert (tmp_path / "store" / "manifest.parquet").is_file()


def test_the_path_of_the_store_stands_alone_on_the_last_line(call, shared_data, tmp_path):
    (tmp_path / "few").mkdir()
    names = sorted(p.name for p in (shared_data / "nih1000" / "images").iterdir())[:8]
    for name in names:
        (tmp_path / "few" / name).write_bytes((shared_data / "nih1000" / "images" / name).read_bytes())
    table = shared_data / "nih1000" / "Data_Entry_2017.csv"
    out = tmp_path / "a folder with a long name that a narrow terminal would break over several lines" / "store"
    result = call("--source", "nih", "--images", tmp_path / "few", "--labels", table, "--out", out, "--size", 64)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(out)
    assert "702 rows of Data_Entry_2017.csv are about images that are not in the folder" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--source", "nowhere"), "there are"),
        (("--fractions", "a,b"), "three numbers"),
        (("--uncertain", "maybe"), "ignore, zeros and ones"),
    ],
)
def test_mistakes_are_user_errors(call, tmp_path, words, message):
    base = ("--source", "nih", "--images", tmp_path, "--labels", tmp_path / "l.csv", "--out", tmp_path / "o")
    result = call(*base, *words)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
