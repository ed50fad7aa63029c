"""Which settings a search tries, what it takes, and that it goes on where it was."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from nc_medfl.benchmark.identity import settings_of, with_new_keys
from nc_medfl.benchmark.matrix import Matrix, RunKey
from nc_medfl.benchmark.searching import Trial, candidates, conclude, trials
from nc_medfl.cli.main import app
from nc_medfl.errors import RunFailed, UserError
from nc_medfl.settings import parse

SEARCH: dict[str, Any] = {"budget": 4, "settings": {"training.lr": [1e-4, "1e-3", 1e-2]}}


def a_matrix(search: dict[str, Any], **more: Any) -> Matrix:
    content = {
        "seeds": 2,
        "datasets": {"shapes": {"kind": "composite", "path": "pictures"}},
        "partitions": ["iid", "dirichlet1"],
        "methods": ["fedavg", "fedprox", "fednca_paper"],
        "search": search,
        **more,
    }
    return parse(Matrix, content, where="test")


def test_a_grid_is_the_method_itself_and_all_combinations() -> None:
    space = {"training.lr": [1e-4, 1e-2], "training.local_epochs": [1, 2]}
    matrix = a_matrix({"budget": 5, "sampling": "grid", "settings": space})
    found = candidates(matrix, "fedavg")
    # 1e-4 and one epoch are what the method has anyhow: a run the less.
    product = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    assert found == [{}, *product[1:]]


def test_a_grid_over_the_budget_is_refused() -> None:
    with pytest.raises(UserError, match=r"3 combinations and the method as it is are more than budget 3"):
        candidates(a_matrix({**SEARCH, "sampling": "grid", "budget": 3}), "fedavg")


def test_a_larger_budget_goes_on_where_a_smaller_one_ended_and_nothing_is_tried_twice() -> None:
    space = {"training.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "training.batch_size": [16, 32]}
    few, many = (candidates(a_matrix({"budget": n, "settings": space}), "fedavg") for n in (4, 9))
    assert few == many[:4]
    assert len(many) == 9
    assert len({json.dumps(one, sort_keys=True) for one in many}) == 9
    rates = [one["training.lr"] for one in many[1:]]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)


def test_methods_have_settings_of_their_own_and_the_same_budget() -> None:
    matrix = a_matrix({**SEARCH, "methods": {"fedprox": {"fedprox.mu": [0.1, 1.0]}}})
    assert all(set(one) == {"training.lr", "fedprox.mu"} for one in candidates(matrix, "fedprox")[1:])
    # lr has three values, of which one is the method's own: the space is smaller than the budget.
    assert len(candidates(matrix, "fedavg")) == 3
    assert len(candidates(matrix, "fedprox")) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss.lambda_contrast": [0.5]}, r"loss\.lambda_contrast can't be set, for paper_compat sets it"),
        ({"training.rate": [0.5]}, r"unknown key 'training\.rate'"),
        ({"training.lr": [-1.0]}, r"training\.lr"),
    ],
)
def test_a_setting_that_can_do_nothing_is_a_users_mistake(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        candidates(a_matrix({"budget": 3, "settings": settings}), "fednca_paper")


def test_partitions_are_searched_each_for_itself_or_some_for_all() -> None:
    keys = [RunKey("shapes", partition, "fedavg", seed) for partition in ("iid", "dirichlet1") for seed in (0, 1)]
    assert {trial.key.partition for trial in trials(a_matrix(SEARCH), keys)} == {"iid", "dirichlet1"}
    some = trials(a_matrix({**SEARCH, "partitions": ["iid"], "seeds": [7, 8]}), keys)
    assert {(trial.key.partition, trial.key.seed) for trial in some} == {("iid", 7), ("iid", 8)}


def scored(matrix: Matrix, scores: dict[int, list[float | None]]) -> dict[Trial, dict[str, Any]]:
    """Scores by candidate and seed for one method on one partition."""
    made = trials(matrix, [RunKey("shapes", "iid", "fedavg", 0)])
    place = {seed: k for k, seed in enumerate(matrix.search.seeds)} if matrix.search else {}
    return {trial: {"validation_auc": scores[trial.number][place[trial.key.seed]]} for trial in made}


def test_the_highest_mean_over_seeds_is_taken_and_what_failed_is_not(tmp_path: Path) -> None:
    matrix = a_matrix({**SEARCH, "seeds": [7, 8]})
    # Means .65, .7 and, of the one run that ended, .9.
    done = scored(matrix, {0: [0.6, 0.7], 1: [0.75, 0.65], 2: [0.9, None]})
    failed = next(trial for trial in done if (trial.number, trial.key.seed) == (2, 8))
    found = conclude(matrix, tmp_path, {t: run for t, run in done.items() if t is not failed}, {failed: "it diverged"})
    rate = candidates(matrix, "fedavg")[1]["training.lr"]
    assert found == {RunKey("shapes", "iid", "fedavg", seed): {"training": {"lr": rate}} for seed in (0, 1)}
    written = yaml.safe_load((tmp_path / "found.yaml").read_text())
    expected = {"candidate": 1, "validation_auc": 0.7, "settings": {"training": {"lr": rate}}}
    assert written["found"]["shapes"]["iid"]["fedavg"] == expected
    table = pd.read_csv(tmp_path / "search.csv", keep_default_na=False)
    assert list(table[table["reason"] != ""]["candidate"]) == [2]
    with pytest.raises(RunFailed, match="no candidate of shapes, fedavg could be scored"):
        conclude(matrix, tmp_path, {}, dict.fromkeys(done, "it diverged"))


def test_runs_use_what_was_found_and_no_trial_is_made_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        place = tmp_path / "pictures" / f"class{number}"
        place.mkdir(parents=True)
        for k in range(40):
            pixels = rng.integers(0, 90, (16, 16, 3), dtype=np.uint8)
            pixels[4 * number : 4 * number + 4] += 150
            Image.fromarray(pixels).save(place / f"{k}.png")
    content = {
        "seeds": 1,
        "settings": {"rounds": 2, "network": {"backbone": "small32"}, "training": {"lr": 1e-3, "augment": False}},
        "datasets": {
            "shapes": {"kind": "composite", "path": "pictures", "size": 16, "train": 60, "val": 30, "test": 30}
        },
        "partitions": {"iid": {"sites": 2}},
        "methods": ["fedavg"],
        "evaluation": {"every": 1, "late": 1},
        "search": {"budget": 3, "rounds": 1, "settings": {"training.lr": [1.0e-2, 1.0e30]}},
    }
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(content))
    command = ["bench", str(tmp_path / "matrix.yaml"), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, command).exit_code == 0
    out = tmp_path / "out"
    table = pd.read_csv(out / "search.csv", keep_default_na=False).set_index("settings")
    assert len(table) == 3
    assert table.loc["training.lr=1e+30", "reason"] == "undefined on validation"
    searched = sorted((out / "search").rglob("run.json"))
    assert not any("test" in set(pd.read_csv(path.parent / "results.csv")["split"]) for path in searched)
    scores = pd.to_numeric(table["validation_auc"].drop("training.lr=1e+30"))
    best = scores.idxmax()
    run = json.loads(next((out / "runs").rglob("run.json")).read_text())
    assert run["settings"]["job"]["training"]["lr"] == (1e-2 if best else 1e-3)
    assert run["settings"]["job"]["rounds"] == 2
    assert f"| {scores.max():.3f} | {best or 'as it is'} |" in (out / "tables.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("run.json")}
    assert CliRunner().invoke(app, command).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("run.json")} == before
    # What was found for a method stays found while another's runs are made.
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump({**content, "methods": ["fedavg", "fedetf"]}))
    found = yaml.safe_load((out / "found.yaml").read_text())["found"]["shapes"]["iid"]["fedavg"]
    assert CliRunner().invoke(app, [*command, "--only", "*/fedetf/*"]).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = yaml.safe_load((out / "found.yaml").read_text())["found"]["shapes"]["iid"]
    assert list(again) == ["fedavg", "fedetf"]
    assert again["fedavg"] == found
    assert set(pd.read_csv(out / "summary.csv")["method"]) == {"fedavg", "fedetf"}


def test_a_run_made_before_the_package_got_a_setting_is_one_at_that_settings_default() -> None:
    matrix = a_matrix(SEARCH, datasets={"drawn": {"kind": "synthetic"}})
    given = settings_of(matrix, RunKey("drawn", "iid", "fedavg", 0))
    earlier = json.loads(json.dumps(given))
    del earlier["job"]["moon"], earlier["job"]["training"]["clip_norm"], earlier["partition"]["by"]
    assert with_new_keys(earlier) == given
    earlier["job"]["training"]["lr"] = 0.5
    assert with_new_keys(earlier) != given
