"""The bench from a matrix file to its tables, on pictures made here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from nc_medfl.benchmark.matrix import load_matrix
from nc_medfl.benchmark.runner import Task, make_one, select
from nc_medfl.cli.main import app
from nc_medfl.errors import UserError

MATRIX = """
name: tiny
seeds: 2
settings:
  rounds: 2
  network: {backbone: small32}
  training: {batch_size: 16, lr: 1.0e-3, augment: false}
datasets:
  shapes: {kind: composite, path: pictures, train: 80, val: 40, test: 60}
partitions: {skew: {sites: 3, alpha: 0.5, min_images: 5}}
methods:
  fedavg:
  fednca_paper:
evaluation: {every: 1, late: 1}
baseline: fedavg
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    for number in range(4):
        place = folder / "pictures" / f"class{number}"
        place.mkdir(parents=True)
        for k in range(60):
            pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[8 * number : 8 * number + 8] += 150
            Image.fromarray(pixels).save(place / f"{k}.png")
    (folder / "matrix.yaml").write_text(MATRIX)
    result = CliRunner().invoke(app, ["bench", str(folder / "matrix.yaml"), "--out", str(folder / "out")])
    assert result.exit_code == 0, result.output
    return folder


def test_results_are_the_long_form(study: Path) -> None:
    rows = pd.read_csv(study / "out" / "results.csv", keep_default_na=False)
    columns = ["dataset", "partition", "method", "seed", "round", "split", "site", "finding", "metric", "value"]
    assert list(rows.columns) == columns
    assert set(rows["method"]) == {"fedavg", "fednca_paper"}
    assert set(rows["seed"]) == {0, 1}
    macro = rows[(rows["finding"] == "macro") & (rows["metric"] == "auc") & (rows["split"] == "test")]
    values = pd.to_numeric(macro["value"])
    assert values.between(0, 1).all()
    # The four classes differ by a bright band: two rounds tell something.
    assert values.max() > 0.6


def test_what_is_lost_is_run_again_to_the_same_bytes(study: Path) -> None:
    before = (study / "out" / "results.csv").read_bytes()
    runs = sorted(path.parent for path in (study / "out" / "runs").rglob("run.json"))
    assert len(runs) == 4
    shutil.rmtree(runs[0])
    (study / "out" / "results.csv").unlink()
    result = CliRunner().invoke(app, ["bench", str(study / "matrix.yaml"), "--out", str(study / "out")])
    assert result.exit_code == 0, result.output
    assert (study / "out" / "results.csv").read_bytes() == before


def test_every_plot_has_its_numbers_beside_it_and_the_same_bytes_again(study: Path) -> None:
    plots = study / "out" / "plots"
    names = {"curves-shapes-skew", "classes-shapes-skew", "collapse-shapes-skew", "skew-shapes"}
    assert {path.name for path in plots.iterdir()} == {
        f"{name}.{end}" for name in names for end in ("svg", "png", "csv")
    }
    rows = pd.read_csv(study / "out" / "results.csv")
    wanted = rows.query(
        "finding == 'macro' and metric == 'auc' and split == 'val' and method == 'fedavg' and round == 1"
    )
    curve = pd.read_csv(plots / "curves-shapes-skew.csv").set_index(["method", "round"])
    assert curve.loc[("fedavg", 1), "mean"] == pytest.approx(np.mean(wanted["value"]), rel=1e-5)
    assert curve.loc[("fedavg", 1), "sd"] == pytest.approx(np.std(wanted["value"], ddof=1), rel=1e-4)
    assert set(pd.read_csv(plots / "collapse-shapes-skew.csv")["method"]) == {"fednca_paper"}
    before = {path.name: path.read_bytes() for path in plots.iterdir()}
    (plots / "curves-gone.svg").write_text("of a partition that the matrix no longer names")
    result = CliRunner().invoke(app, ["bench", str(study / "matrix.yaml"), "--out", str(study / "out"), "--tables"])
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_bytes() for path in plots.iterdir()} == before


def test_runs_of_another_matrix_are_in_no_table(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(study / "out", out)
    # FedAvg's runs are what they were; those of the other method were made at another learning rate.
    changed = MATRIX.replace("fednca_paper:", "fednca_paper: {training: {lr: 2.0e-3}}")
    (tmp_path / "m.yaml").write_text(changed.replace("path: ", f"path: {study}/"))
    result = CliRunner().invoke(app, ["bench", str(tmp_path / "m.yaml"), "--out", str(out), "--tables"])
    assert result.exit_code == 0, result.output
    assert set(pd.read_csv(out / "results.csv")["method"]) == {"fedavg"}
    assert set(pd.read_csv(out / "runs.csv")["method"]) == {"fedavg"}
    assert "2 runs were made with other settings or data" in result.stderr
    # Of a study that was carried elsewhere, without its pictures, all tables can still be made.
    (tmp_path / "m.yaml").write_text(MATRIX)
    result = CliRunner().invoke(app, ["bench", str(tmp_path / "m.yaml"), "--out", str(out), "--tables"])
    assert result.exit_code == 0, result.output
    assert (out / "results.csv").read_bytes() == (study / "out" / "results.csv").read_bytes()


def test_an_unknown_method_is_named(study: Path, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MATRIX.replace("fednca_paper:", "fedmagic:").replace("path: ", f"path: {study}/"))
    result = CliRunner().invoke(app, ["bench", str(tmp_path / "m.yaml"), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, UserError)
    assert "'fedmagic' has no settings" in str(result.exception)
    assert not (tmp_path / "out" / "results.csv").exists()


def test_a_study_that_can_not_be_written_is_a_users_mistake(study: Path, tmp_path: Path) -> None:
    place = tmp_path / "taken"
    place.write_text("a file")
    for out in (place, place / "below"):
        result = CliRunner().invoke(app, ["bench", str(study / "matrix.yaml"), "--out", str(out)])
        assert isinstance(result.exception, UserError)
        assert str(result.exception).startswith(f"{out}: cannot be written")
    assert place.read_text() == "a file"


def test_settings_without_a_name_are_a_users_mistake(study: Path, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MATRIX.replace("{skew: {sites: 3, alpha: 0.5, min_images: 5}}", "[{sites: 3}]"))
    result = CliRunner().invoke(app, ["bench", str(tmp_path / "m.yaml"), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, UserError)
    assert "a list holds names only" in str(result.exception)
    assert "given" not in str(result.exception)  # the file itself is no help


def test_a_run_that_can_not_be_made_tells_why_so_that_others_go_on(study: Path, tmp_path: Path) -> None:
    (study / "few.yaml").write_text(MATRIX.replace("min_images: 5", "min_images: 79"))
    matrix = load_matrix(study / "few.yaml")
    key = select(matrix, ["*/fedavg/seed0"])[0]
    reason, mistake = make_one(matrix, Task(key, Path("runs") / key.folder), tmp_path)
    assert "79" in reason
    assert mistake
    assert reason in (tmp_path / "runs" / key.folder / "error.txt").read_text()
