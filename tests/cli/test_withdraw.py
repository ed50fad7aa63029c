"""The command line of a withdrawal, as a person at a site types it."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from nc_medfl.cli.withdraw import withdraw
from nc_medfl.data.manifest import keyed_hash
from nc_medfl.data.store import open_store, write_store
from nc_medfl.data.usage import record_use
from nc_medfl.errors import UserError
from tests_support import tiny_store

SALT = b"0123456789abcdef"


@pytest.fixture
def call():
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(withdraw)

    def invoke(*words: object, typed: str | None = None):
        return CliRunner().invoke(app, [str(word) for word in words], input=typed)

    return invoke


@pytest.fixture
def folder(tmp_path):
    """A store of ten images of five patients, P0 to P4, with its salt."""
    store = tiny_store(tmp_path / "store", images=10, size=16)
    frame = store.manifest.copy()
    frame["patient_key"] = pd.Series([keyed_hash(SALT, "patient", f"P{n // 2}") for n in range(10)], dtype="string")
    info = {"size": 16, "settings": {}, "counts": {"ok": 10}, "settings_hash": "h"}
    write_store(store.folder, frame, store.vocabulary, **info)
    (store.folder / "site_private").mkdir(mode=0o700)
    (store.folder / "site_private" / "salt.bin").write_bytes(SALT)
    return store.folder


@pytest.mark.parametrize("how", ["argument", "file", "typed"])
def test_a_patient_is_taken_out_and_the_identifier_is_not_repeated(call, folder, tmp_path, how):
    (tmp_path / "who").write_text("P3\n")
    words = {
        "argument": ("--patient", "P3"),
        "file": ("--patient-file", tmp_path / "who"),
        "typed": ("--patient-file", "-"),
    }[how]
    result = call(folder, *words, typed="P3\n")
    assert result.exit_code == 0, result.output
    assert "2 images taken out of the store" in result.stdout
    assert str(folder) in result.stdout.splitlines()
    assert "P3" not in result.output
    assert len(open_store(folder)) == 8
    again = call(folder, *words, typed="P3\n")
    assert again.exit_code == 0
    assert "Taken out before" in again.stdout


def test_the_summary_is_json_and_names_the_runs(call, folder):
    record_use(open_store(folder), job="a1b2", name="cxr", settings={"rounds": 2})
    result = call(folder, "--patient", "P0", "--json")
    assert result.exit_code == 0, result.output
    (store,) = json.loads(result.stdout)["stores"]
    assert (store["images"], store["store"]) == (2, str(folder))
    (run,) = store["runs"]
    assert (run["job"], run["name"], run["splits"], run["certain"]) == ("a1b2", "cxr", ["train"], True)


def test_samples_of_the_review_are_taken_out(call, folder, tmp_path):
    samples = open_store(folder).manifest["sample_id"].tolist()
    (tmp_path / "list.txt").write_text(f"{samples[1]}\n\n{samples[7]}\n")
    result = call(folder, "--samples", tmp_path / "list.txt")
    assert result.exit_code == 0, result.output
    assert open_store(folder).manifest["sample_id"].tolist() == [s for k, s in enumerate(samples) if k not in (1, 7)]


def test_a_dry_run_says_what_it_would_do(call, folder):
    result = call(folder, "--patient", "P0", "--dry-run")
    assert "2 images would be taken out" in result.stdout
    assert len(open_store(folder)) == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--patient", "nobody"), "this patient is not in it"),
        (("--patient", " "), "--patient: is empty"),
        ((), "give either --patient or --patient-file, or --samples"),
        (("--patient", "P1", "--samples", "FILE"), "give either"),
        (("--patient-file", "nowhere"), "--patient-file nowhere: cannot be read"),
        (("--samples", "EMPTY"), "holds no line"),
        (("--patient", "P1", "--runs", "nowhere"), "nowhere: no such folder"),
    ],
)
def test_mistakes_are_user_errors_and_change_nothing(call, folder, tmp_path, words, message):
    (tmp_path / "FILE").write_text("x\n")
    (tmp_path / "EMPTY").write_text("\n")
    named = [tmp_path / word if word in ("FILE", "EMPTY") else word for word in words]
    result = call(folder, *named)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert len(open_store(folder)) == 10
