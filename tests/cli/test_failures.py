"""An error that nobody foresaw ends in one line, and no word of it names a patient."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nc_medfl.cli.failures import one_line, told
from nc_medfl.errors import UserError

SECRET = "Doe^Jane"


def raised() -> UserError:
    try:
        try:
            {}[SECRET]
        except KeyError as error:
            raise UserError("labels.csv: mend it.") from error
    except UserError as error:
        return error


def test_verbs_that_read_patients_files_leave_the_words_of_others_out():
    error = raised()
    assert SECRET not in told(error, ["prepare", "--images", "x"])
    assert SECRET not in told(error, ["--debug", "prepare"])
    assert "UserError: labels.csv: mend it." in told(error, ["prepare"])
    assert "KeyError" in told(error, ["prepare"])
    # A federation holds none, and who mends it needs the words.
    assert SECRET in told(error, ["run", "job"])


def test_one_line_says_the_kind_and_the_place_alone():
    try:
        from nc_medfl.data.join import join_labels

        join_labels([None], [SECRET], {})  # type: ignore[list-item]
    except Exception as error:
        said = one_line(error)
    assert SECRET not in said
    assert said.startswith("AttributeError (data/join.py, line ")
    assert "\n" not in said


@pytest.mark.parametrize("debug", [False, True])
def test_the_command_ends_so(debug):
    words = ["nc-medfl", *(["--debug"] if debug else []), "labels", "x.csv"]
    code = (
        "import sys; import nc_medfl.cli.main as main\n"
        "import nc_medfl.data.sources as sources\n"
        f"def broken(*a, **k): raise RuntimeError('{SECRET}')\n"
        "sources.preview_labels = broken\n"
        f"sys.argv = {words}\n"
        "main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert SECRET not in said
    assert ("in labels" in said) is debug
    assert said.splitlines()[-1].startswith("nc-medfl: RuntimeError")
