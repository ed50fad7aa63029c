"""How long a matrix takes: the number of its steps and images by hand, and the paper's own matrices as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nc_medfl.benchmark.datasets import Extent, extent_of
from nc_medfl.benchmark.estimate import Cost, run_seconds
from nc_medfl.benchmark.matrix import Matrix, job_of, load_matrix
from nc_medfl.benchmark.searching import candidates
from nc_medfl.cli.main import app
from nc_medfl.errors import UserError
from nc_medfl.settings import parse
from tests_support import REPOSITORY

PAPER = sorted((REPOSITORY / "benchmarks" / "paper").glob("*.yaml"))
MATRIX = {
    "settings": {"rounds": 10, "training": {"batch_size": 32}, "network": {"backbone": "small32"}},
    "datasets": {
        "drawn": {
            "kind": "composite",
            "path": "nowhere",
            "size": 16,
            "train": 1000,
            "val": 100,
            "test": 300,
            "expected": {"train": 1000, "val": 100, "test": 300, "findings": 4, "shape": [3, 16, 32]},
        }
    },
    "partitions": {"iid": {"sites": 5}},
    "methods": ["fedavg", "fedbn", "local_only", "pooled"],
    "evaluation": {"every": 5, "late": 2},
}
A_MATRIX = parse(Matrix, MATRIX, where="test")


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # 200 images a site are 7 batches: 10 rounds of 5 x 7 steps of 1 s and 5 sites of 2 s. Rounds 5, 9 and 10 are
        # measured on 400 images of 0.01 s.
        ("fedavg", 10 * (35 + 10) + 3 * 400 * 0.01),
        # Each of five models is measured.
        ("fedbn", 10 * (35 + 10) + 3 * 400 * 0.01 * 5),
        ("local_only", 10 * (35 + 10) + 3 * 400 * 0.01 * 5),
        # 1,000 images in one place are 32 batches.
        ("pooled", 10 * (32 + 2) + 3 * 400 * 0.01),
    ],
)
def test_seconds_of_a_run_by_hand(method: str, expected: float) -> None:
    extent = Extent(1000, 100, 300, 4, (3, 16, 32))
    job = job_of(A_MATRIX, method, seed=0)
    found = run_seconds(A_MATRIX, method, A_MATRIX.partitions["iid"], job, extent, Cost(1.0, 2.0, 0.01))
    assert found == pytest.approx(expected)


def test_the_command_tells_what_it_measured_and_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "matrix.yaml").write_text(json.dumps(MATRIX))
    command = ["bench", str(tmp_path / "matrix.yaml"), "--only", "*/fedavg/*", "--estimate", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    [row] = said["rows"]
    assert (row["method"], row["image"], row["runs"]) == ("fedavg", "3x16x32", 3)
    assert 0 < row["step_seconds"] < 5
    assert said["hours"] == pytest.approx(row["hours"])
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.yaml"]


def test_a_data_set_of_unknown_size_is_told(tmp_path: Path) -> None:
    content = {**MATRIX, "datasets": {"drawn": {"kind": "store", "path": "nowhere"}}}
    (tmp_path / "matrix.yaml").write_text(json.dumps(content))
    done = CliRunner().invoke(app, ["bench", str(tmp_path / "matrix.yaml"), "--estimate"])
    assert isinstance(done.exception, UserError)
    assert "no 'expected' says what it holds" in str(done.exception)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_matrices_have_its_settings(path: Path) -> None:
    matrix = load_matrix(path)
    for method in matrix.methods:
        job = job_of(matrix, method, seed=0)
        training = job.training
        assert (job.rounds, job.image_size, job.network.backbone) == (100, 224, "resnet18")
        assert (training.local_epochs, training.batch_size, training.optimizer, training.lr) == (1, 32, "adamw", 1e-4)
        assert (training.betas, training.eps, training.weight_decay) == ((0.9, 0.98), 1e-8, 1e-2)
        if matrix.search:
            assert len(candidates(matrix, method)) == matrix.search.budget
    assert all(partition.sites == 10 for partition in matrix.partitions.values())
    assert all(extent_of(data).train > 4000 for data in matrix.datasets.values())


def test_initial_weights_lie_beside_the_matrix_or_where_the_command_says(tmp_path: Path) -> None:
    path = REPOSITORY / "benchmarks" / "paper" / "voc.yaml"
    assert load_matrix(path).settings["network"]["init_weights"] == str(path.parent / "resnet18.pth")
    other = load_matrix(path, weights=tmp_path / "other.pt")
    assert other.settings["network"]["init_weights"] == str(tmp_path / "other.pt")
