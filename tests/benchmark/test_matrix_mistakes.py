"""A wrong key or value of a matrix names itself, the file and the line, wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from nc_medfl.benchmark.matrix import load_matrix
from nc_medfl.errors import UserError

DATA = "datasets:\n  a: {kind: synthetic, sites: 3}\npartitions: [natural]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("enginee: local\n" + DATA + "methods: [fednca]\n", "line 1: unknown key 'enginee'. Did you mean 'engine'?"),
        (
            "engine: flair\n" + DATA + "methods: [fednca]\n",
            "line 1: engine: 'flair' is none of local, flare. Did you mean",
        ),
        (
            DATA.replace("sites", "sitez") + "methods: [fednca]\n",
            "line 2: unknown key 'datasets.a.sitez'. Did you mean",
        ),
        (
            DATA.replace("synthetic", "sinthetic") + "methods: [fednca]\n",
            "line 2: datasets.a.kind: 'sinthetic' is none of",
        ),
        (DATA.replace("kind: synthetic, ", "") + "methods: [fednca]\n", "line 2: the key 'datasets.a.kind' is missing"),
        (
            DATA + "methods:\n  fednca:\n    loss: {margn: 1}\n",
            "line 6: unknown key 'loss.margn'. Did you mean 'loss.margin'",
        ),
        (DATA + "methods: [fednca]\nsettings:\n  lr: 1\n", "line 6: unknown key 'lr'. Did you mean 'training.lr'?"),
        (
            DATA + "methods: [fednca]\nsearch:\n  budget: 2\n  settings:\n    training.lrr: [1, 2]\n",
            "line 8: search.settings: unknown key 'training.lrr'. Did you mean 'training.lr'?",
        ),
    ],
)
def test_a_mistake_in_a_matrix_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_matrix(path)
    assert f"{path}, {message}" in str(caught.value)
