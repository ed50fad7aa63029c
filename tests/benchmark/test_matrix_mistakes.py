"""A wrong key or value of a matrix names itself, the file and the line, wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from nc_medfl.benchmark.matrix import load_matrix
from nc_medfl.benchmark.runner import select
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
        (
            DATA + "methods:\n  fednca:\n  mine: {method: fedavg, regime: locl}\n",
            "line 6: methods.mine.regime: 'locl' is none of federated, local, pooled. Did you mean 'local'?",
        ),
        (DATA + "methods: [fednca, fedavgg]\n", "line 4: methods: 'fedavgg' has no settings, and is none of "),
        (DATA + "methods: [fednca]\nseeds: 0\n", "line 5: seeds: expected a list, such as [0]"),
        (DATA + "methods: [fednca]\nseeds: [1, -1]\n", "line 5: seeds.1: must be greater than or equal to 0"),
    ],
)
def test_a_mistake_in_a_matrix_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_matrix(path)
    assert f"{path}, {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("partitions", "message"),
    [
        ("[dirichlt0.1]", "'dirichlt0.1': no part 'dirichlt0.1'. Did you mean 'dirichlet'?"),
        ("[dirichlet1..2]", "'dirichlet1..2': no part 'dirichlet1..2'"),
        ("[missing1.5]", "'missing1.5': no part 'missing1.5'"),
        ("[unknown2+asnegative3]", "'unknown2+asnegative3': unknown is set twice"),
        ("{dirichlet0.1: {alpha: 0.5, unknown: 2}}", "'dirichlet0.1' stands for alpha: 0.1, and alpha: 0.5 stands"),
        ("{mine: 3}", "partitions.mine: expected 'key: value' lines"),
    ],
)
def test_a_partition_that_can_not_be_is_told_with_its_file(tmp_path: Path, partitions: str, message: str) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text(DATA.replace("[natural]", partitions) + "methods: [fednca]\n")
    with pytest.raises(UserError) as caught:
        load_matrix(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_sites_to_be_left_as_they_are_in_data_without_any_are_told_before_a_run(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    data = DATA.replace("partitions: [natural]", "  b: {kind: composite, path: p}\npartitions: [iid, natural]")
    path.write_text(data + "methods: [fednca]\nseeds: 1\n")
    matrix = load_matrix(path)
    with pytest.raises(
        UserError, match=r"partitions\.natural leaves .* datasets\.b has none .*--only 'b/iid/\*' --only"
    ):
        select(matrix, [])
    assert [key.folder.parts[:2] for key in select(matrix, ["b/iid/*", "a/natural/*"])] == [
        ("a", "natural"),
        ("b", "iid"),
    ]


def test_settings_below_a_partitions_name_are_on_top_of_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    given = "{dirichlet0.1+missing5: {sites: 4, unknown: 2}, mine: {sites: 3, unknown: 1}}"
    path.write_text(DATA.replace("[natural]", given) + "methods: [fednca]\n")
    found = load_matrix(path).partitions
    named = found["dirichlet0.1+missing5"]
    assert (named.alpha, named.missing_classes, named.sites, named.unknown) == (0.1, 5, 4, 2)
    assert (found["mine"].alpha, found["mine"].unknown) == (None, 1)
