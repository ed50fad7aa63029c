"""The command as a whole: help, version, and how mistakes end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests_support import REPOSITORY, tiny_site

VERBS = ("demo", "prepare", "partition", "check", "site init", "run", "evaluate", "report")


def nc_medfl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nc_medfl.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_json(verb: str) -> None:
    done = nc_medfl(*verb.split(), "--help")
    assert done.returncode == 0
    assert f"nc-medfl {verb}" in done.stdout
    assert "--json" in done.stdout


def test_the_version_is_the_packages() -> None:
    from nc_medfl import __version__

    done = nc_medfl("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"nc_medfl {__version__}")


def test_prepare_and_partition_do_without_torch_and_flare() -> None:
    code = (
        "import sys; import nc_medfl.cli.main; import nc_medfl.data.prepare; import nc_medfl.partition; "
        "print([m for m in ('torch', 'monai', 'nvflare') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for seed, name in enumerate(("a", "b")):
        tiny_site(folder, name, seed=seed, images=20)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quiet"], "no command is given. See 'nc-medfl --help'."),
        (["run", "jobs/nope", "--sites", "{sites}", "--out", "{out}"], "jobs/nope: no job.py, so not a job"),
        (["run", "jobs/fednca_cxr", "--sites", "nowhere", "--out", "{out}"], "nowhere: no such folder"),
        (
            ["run", "jobs/fednca_cxr", "--sites", "{sites}", "--out", "{out}", "--set", "roundz=1"],
            "--set roundz=1: unknown key 'roundz'. Did you mean 'rounds'?",
        ),
        (
            ["run", "jobs/fednca_cxr", "--sites", "{sites}", "--out", "{out}", "--env", "moon"],
            "--env moon: not known. Use sim, poc or prod.",
        ),
        (
            ["run", "jobs/fednca_cxr", "--sites", "{sites}", "--out", "{out}", "--set", "network.feature_dim=13"],
            "feature",
        ),
        (
            ["run", "jobs/fednca_cxr", "--sites", "{sites}", "--out", "{out}", "--set", "network.init_weights=no.pt"],
            "no.pt",
        ),
        (["run", "jobs/fednca_cxr", "--sites", "{sites}", "--out", "{used}"], "not empty, and not an earlier run"),
        (["evaluate", "{used}", "--sites", "{sites}"], "no run.json, so not a run"),
        (["evaluate", "nowhere"], "nowhere: no such run"),
        (["partition", "{used}", "--sites", "two", "--out", "{out}"], "'--sites': expected a whole number. See"),
        (["config", "schema", "jobb"], "'file': 'jobb' is not one of 'job', 'site', 'matrix'. See"),
        (["report", "{used}"], "metrics.csv: no such file"),
        (["demo", "--out", "{used}"], "not empty, and not an earlier run"),
        (["demo", "--out", "{out}", "--method", "magic"], "--method magic: not known"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2_and_nothing_is_lost(
    sites: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("years of work")
    places = {"sites": sites, "out": tmp_path / "out", "used": used}
    done = nc_medfl(*(text.format(**places) for text in arguments))
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("nc-medfl: ")
    assert message in line
    assert "Traceback" not in done.stderr
    assert (used / "thesis.txt").read_text() == "years of work"
    assert not (tmp_path / "out").exists()
