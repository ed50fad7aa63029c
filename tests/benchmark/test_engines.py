"""A matrix in this process and in FLARE's simulator: the same rows within float tolerance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from nc_medfl.benchmark.flare import log_kept
from nc_medfl.benchmark.matrix import load_matrix
from nc_medfl.cli.main import app
from nc_medfl.errors import RunFailed, UserError

MATRIX = {
    "seeds": 1,
    "settings": {"rounds": 3, "network": {"backbone": "small32"}, "training": {"batch_size": 16, "lr": 1e-3}},
    "datasets": {"shapes": {"kind": "composite", "path": "pictures", "train": 90, "val": 60, "test": 60}},
    "partitions": {"iid": {"sites": 2}},
    "methods": ["fednca", "moon", "local_only"],
    "evaluation": {"every": 2, "late": 1},
}


@pytest.mark.faults
def test_both_engines_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a study's folder is mostly given from here, where FLARE's processes are not
    rng = np.random.default_rng(0)
    for number in range(4):
        place = tmp_path / "pictures" / f"class{number}"
        place.mkdir(parents=True)
        for k in range(50):
            pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[8 * number : 8 * number + 8] += 150
            Image.fromarray(pixels).save(place / f"{k}.png")
    tables = {}
    for engine in ("local", "flare"):
        (tmp_path / "matrix.yaml").write_text(json.dumps({**MATRIX, "engine": engine}))
        out = Path(engine)
        done = CliRunner().invoke(app, ["bench", str(tmp_path / "matrix.yaml"), "--out", str(out)])
        assert done.exit_code == 0, done.output
        tables[engine] = pd.read_csv(out / "results.csv", keep_default_na=False, na_values={"value": [""]})
    columns = [name for name in tables["local"] if name != "value"]
    one, other = (table.set_index(columns)["value"].sort_index() for table in tables.values())
    assert one.index.equals(other.index)
    assert {"contrast", "rejection", "bce", "auc", "nc1", "f1"} <= set(tables["flare"]["metric"])
    np.testing.assert_allclose(one.to_numpy(), other.to_numpy(), rtol=1e-4, atol=2e-4, equal_nan=True)


def test_fedbn_is_for_the_local_engine(tmp_path: Path) -> None:
    (tmp_path / "matrix.yaml").write_text(json.dumps({**MATRIX, "methods": ["fedbn"], "engine": "flare"}))
    with pytest.raises(UserError, match="Set engine: local"):
        load_matrix(tmp_path / "matrix.yaml")


def test_the_log_of_a_federation_that_failed_outlives_its_folder(tmp_path: Path) -> None:
    made, kept = tmp_path / "gone" / "flare.log", tmp_path / "study" / "run" / "flare.log"
    made.parent.mkdir()
    made.write_text("why")
    with pytest.raises(RunFailed) as caught, log_kept(made, kept):
        raise RunFailed(f"it ended. See {made}.")
    assert str(caught.value) == f"it ended. See {kept}."
    assert kept.read_text() == "why"
    with log_kept(made, kept):
        pass
    assert not kept.exists()  # made again, and well
