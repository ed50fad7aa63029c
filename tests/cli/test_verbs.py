"""What all commands have in common: help, options, exit codes, and what reaches a pipe."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from nc_medfl.cli.verbs import VERBS, load
from tests_support import REPOSITORY


def nc_medfl(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nc_medfl.cli.main", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY, check=False, env=os.environ | environment
    )


def _commands() -> list[tuple[str, object]]:
    found = []
    for name in VERBS:
        command = load(name)
        inner = getattr(command, "commands", None)
        found += [(f"{name} {one}", inner[one]) for one in inner] if inner else [(name, command)]
    return found


def test_every_command_has_an_example_of_itself_json_quiet_and_debug() -> None:
    lacking = []
    for name, command in _commands():
        flags = {flag for param in command.params for flag in param.opts}
        wrong = sorted({"--json", "--quiet", "--debug"} - flags)
        if not re.search(rf"Example: `?nc-medfl {name}\b", command.help or ""):
            wrong.append("example")
        lacking += [(name, wrong)] if wrong else []
    assert lacking == []


def test_help_imports_nothing_heavy_and_takes_less_than_twice_typer_and_rich() -> None:
    code = (
        "import sys, nc_medfl.cli.main as m\n"
        "sys.argv = ['nc-medfl', '--help']\n"
        "try: m.main()\n"
        "except SystemExit: pass\n"
        "heavy = 'torch monai nvflare pandas numpy pydantic yaml rich.console'\n"
        "print([n for n in heavy.split() if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    ours = min(_cpu_seconds("-m", "nc_medfl.cli.main", "--help") for _ in range(5))
    base = min(_cpu_seconds("-c", "import typer, rich") for _ in range(5))
    assert ours < 2 * base


def _cpu_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum"], "No such command 'rum'. Did you mean 'run'? See 'nc-medfl --help'."),
        (["run"], "Missing argument 'JOB'. See 'nc-medfl run --help'."),
        (["run", "jobs/fednca_cxr", "--sitess", "x"], "No such option: --sitess"),
        (["config", "show", "nowhere"], "nowhere: no such file. Give a job's folder"),
        (["config", "show", "jobs/fednca_cxr", "--set", "loss.margn=1"], "Did you mean 'loss.margin'?"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    code = f"import sys; sys.argv = ['nc-medfl', *{arguments!r}]; from nc_medfl.cli.main import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("nc-medfl: ")
    assert said in line


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    for arguments in (["--debug", "config", "show", "nowhere"], ["config", "show", "nowhere", "--debug"]):
        done = nc_medfl(*arguments)
        assert done.returncode == 2
        assert "Traceback" in done.stderr


def test_a_pipe_gets_no_control_codes_and_no_wrapped_paths(tmp_path: Path) -> None:
    place = tmp_path / ("a long name " * 8) / ":warning: [bold]b"
    done = nc_medfl("init", place, COLUMNS="20", TERM="xterm-256color")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert str(place / "jobs" / "fednca_cxr") in done.stdout.splitlines()


def test_who_stops_reading_ends_the_command_quietly() -> None:
    command = f"{sys.executable} -m nc_medfl.cli.main config schema job | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False)
    assert (done.stdout, done.stderr) == ("{", "")


def test_quiet_leaves_warnings_and_drops_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    from nc_medfl.cli import console

    try:
        console.be_quiet()
        console.note("a remark")
        with console.progress_bar("working") as progress:
            progress(1, 2)
        console.warn("look at this")
    finally:
        console.console.quiet = False
    assert capsys.readouterr().err == "warning: look at this\n"


@pytest.mark.parametrize(
    ("words", "wanted"), [("nc-medfl prep", "prepare"), ("nc-medfl config show --cha", "--changed")]
)
def test_completion_knows_the_verbs_and_their_options(words: str, wanted: str) -> None:
    code = "import sys; sys.argv = ['nc-medfl']; from nc_medfl.cli.main import main; main()"
    asked = {"_NC_MEDFL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | asked)
    assert done.stdout.split() == [wanted]


def test_the_list_of_verbs_is_typers_own() -> None:
    """A verb of the list that can't be loaded, or a module without its verb, is told here."""
    for name in VERBS:
        assert isinstance(load(name), typer.core.TyperCommand | typer.core.TyperGroup)
        assert len(VERBS[name].about) <= 60
