"""``nc-medfl partition`` as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nc_medfl.cli.main import main
from nc_medfl.data.store import open_store
from tests_support import tiny_store


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool") / "store"
    tiny_store(folder, images=200, prevalence=0.05)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of ``nc-medfl partition`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["nc-medfl", "partition", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    code = caught.value.code
    return code if isinstance(code, int) else 0


def test_sites_are_written_and_told(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sites"
    options = (
        "--sites",
        3,
        "--alpha",
        1,
        "--missing-classes",
        1,
        "--seed",
        4,
        "--quantity-alpha",
        5,
        "--min-images",
        5,
    )
    assert call(monkeypatch, pool, *options, "--min-images", 5, "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [str(out / "partition.png"), str(out)]
    for number in (1, 2, 3):
        name = f"site-{number}"
        store = open_store(out / name / "store")
        [row] = [line.split() for line in lines if line.strip().startswith(name)]
        assert row[:5] == [name, str(len(store)), *(str(len(store.positions(s))) for s in ("train", "val", "test"))]


def test_json_is_the_whole_of_stdout(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sites"
    assert call(monkeypatch, pool, "--sites", 2, "--seed", 1, "--min-images", 5, "--out", out, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said.pop("out") == str(out)
    assert said == json.loads((out / "partition.json").read_text())
    assert said["settings"]["sites"] == 2
    assert list(said["sites"]) == ["site-1", "site-2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sites", 1), "--sites 1: a federation needs two"),
        (("--sites", 3, "--alpha", 0), "--alpha 0: give a number above 0"),
        (("--sites", 3, "--missing-classes", 14), "--missing-classes 14: with 3 sites at most 9"),
        (("--sites", 50), "--sites 50: the pool has 20 patients in its val split"),
    ],
)
def test_a_mistake_ends_in_one_line_and_2(
    pool: Path,
    tmp_path: Path,
    options: tuple[object, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, pool, *options, "--out", tmp_path / "sites") == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = [line for line in said.err.splitlines() if line.startswith("nc-medfl:")]
    assert message in line
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_store_and_a_folder_in_use_are_told(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, tmp_path / "none", "--sites", 2, "--out", tmp_path / "sites") == 2
    assert f"{tmp_path / 'none'}: no such folder" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("x")
    assert call(monkeypatch, pool, "--sites", 2, "--out", tmp_path) == 2
    assert "not empty, and not an earlier partition" in capsys.readouterr().err


def test_dealing_out_needs_neither_torch_nor_monai(pool: Path, tmp_path: Path) -> None:
    # monai takes seconds to import.
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nc_medfl.cli.partition import partition\n"
        f"partition(Path({str(pool)!r}), Path({str(tmp_path / 'sites')!r}), 2, alpha=1.0, min_images=5)\n"
        "sys.exit(3 if {'torch', 'monai', 'nvflare'} & set(sys.modules) else 0)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
