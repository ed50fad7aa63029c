"""The blocks of the documentation are run: Python as it stands, commands on small made-up data, YAML by its reader."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from docs_support import Block, blocks, command_lines
from docs_world import World

#: Pages whose commands are not run here, and why.
PAGES_NOT_RUN = {
    "docs/how-to/deploy.md": "tests/integration/test_deploy.py runs every line, on real FLARE processes",
    "docs/how-to/poc.md": "tests/integration/test_deploy.py and test_poc.py run every line",
    "docs/results/": "measured runs of minutes to days; what they say is dated",
    "benchmarks/": "days on a GPU",
    "jobs/": "each job's federation is run in tests/federation and tests/integration",
    "docs/how-to/bench.md": "tests/benchmark runs matrices of its own; a study takes hours",
    **dict.fromkeys(("docs/how-to/extend.md", "docs/examples/"), "a test builds and installs the example, and runs it"),
    "docs/how-to/track.md": "tests/federation runs it with both trackers",
    "docs/how-to/pacs.md": "tests/integration/test_pacs.py fetches from a real archive",
}
#: Single commands that are not run here, by a pattern, and why.
COMMANDS_NOT_RUN = {
    r"--env poc|^stop poc": "tests/integration/test_poc.py",
    r"^demo ": "tests/integration/test_demo.py",
    r"^run jobs/label_statistics|^run jobs/evaluate_cxr": "their federations are run in tests/federation",
    r"^run jobs/fedavg_cxr|^run .*loss\.margin=0\.2": "as jobs/fednca_cxr but for settings, which test_commands reads",
    r"^site init KIT|^check --kit KIT": "tests/integration/test_deploy.py",
    r"^run federation/jobs": "as jobs/fednca_cxr; the job comes from the wheel, which a test builds and installs",
    r"completion": "it writes into the shell's own files, or prints what the shell reads",
    r"--engine dask": "tests/integration/test_dask_engine.py",
    r"^labels train\.csv": "CheXpert's table isn't here; tests/labels reads such",
    r"^withdraw pool": "the same for several stores",
    r"--against pooled": "the README's comparison with 'local' is run; tests/evaluation trains both",
}
#: Programs that are not this package's; their lines are not run.
OTHER_PROGRAMS = {
    *("make", "pip", "python", "nvflare", "tensorboard", "mlflow", "export", "install", "sha256sum", "echo", "."),
    *("podman", "cd", "python3"),
}


_LEAST_MATRIX = {
    "datasets": {"d": {"kind": "synthetic"}},
    "partitions": ["iid"],
    "methods": ["fedavg", "fedprox", "fednca"],
}
_LEAST_MAP = "name: x\nvocabulary: nih14\nimage_column: file\n"


def _why_not(block: Block, line: str) -> str | None:
    for start, reason in PAGES_NOT_RUN.items():
        if block.page.startswith(start):
            return reason
    return next((reason for pattern, reason in COMMANDS_NOT_RUN.items() if re.search(pattern, line)), None)


def _runnable() -> list[Block]:
    return [
        b
        for b in blocks("sh")
        if any(w[0] == "nc-medfl" and not _why_not(b, " ".join(w[1:])) for w in command_lines(b.text))
    ]


@pytest.mark.parametrize("block", _runnable(), ids=str)
def test_the_commands_of_a_block_run(block: Block, world: World) -> None:
    for words in command_lines(block.text):
        if words[0] == "nc-medfl" and not _why_not(block, " ".join(words[1:])) and words[1:] != ["--help"]:
            world.run(words[1:])


def test_every_line_of_shell_is_a_command_that_is_known() -> None:
    for block in blocks("sh"):
        for words in command_lines(block.text):
            program = next((word for word in words if "=" not in word.split("/")[0]), "")
            known = Path(program).name in {"", "nc-medfl", *OTHER_PROGRAMS, "start.sh", "stop_fl.sh"}
            assert known, f"{block}: {' '.join(words)}"


def test_nothing_is_left_out_for_a_reason_that_is_gone() -> None:
    lines = [(b, " ".join(w[1:])) for b in blocks("sh") for w in command_lines(b.text) if w[0] == "nc-medfl"]
    for start in PAGES_NOT_RUN:
        assert any(b.page.startswith(start) for b, _ in lines), start
    for pattern in COMMANDS_NOT_RUN:
        assert any(re.search(pattern, line) for _, line in lines), pattern


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_runs_as_it_stands(block: Block, world: World) -> None:
    before = Path.cwd()
    os.chdir(world.folder)
    try:
        exec(compile(block.text, str(block), "exec"), {"__name__": "docs"})
    finally:
        os.chdir(before)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_what_its_reader_takes(block: Block, tmp_path: Path) -> None:
    from nc_medfl.benchmark.matrix import Matrix
    from nc_medfl.config import JobSettings, SiteConfig
    from nc_medfl.labels import load_label_map, load_vocabulary
    from nc_medfl.settings import parse

    content = yaml.safe_load(block.text)
    where = str(block)
    if "datasets" in content:
        parse(Matrix, content, where=where)
    elif "search" in content:
        parse(Matrix, {**_LEAST_MATRIX, **content}, where=where)
    elif "image_column" in content or "delimited" in content:
        path = tmp_path / "map.yaml"
        path.write_text(("" if "image_column" in content else _LEAST_MAP) + block.text, encoding="utf-8")
        assert load_label_map(path).targets()
    elif "store" in content:
        parse(SiteConfig, content, where=where)
    elif "findings" in content:
        path = tmp_path / "vocabulary.yaml"
        path.write_text(block.text, encoding="utf-8")
        assert list(load_vocabulary(str(path)).findings) == content["findings"]
    else:
        parse(JobSettings, content, where=where)
