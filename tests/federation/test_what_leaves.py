"""The byte table of docs/explanation/privacy.md, beside answers serialised as FLARE serialises them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.app_common.decomposers import common_decomposers
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs

from nc_medfl.config import JobSettings, load_site_config
from nc_medfl.federation import keys
from nc_medfl.federation.client import _as_model
from nc_medfl.federation.tasks import Answer, Task, do_task, make_worker
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network
from tests_support import REPOSITORY, tiny_site

PAGE = REPOSITORY / "docs" / "explanation" / "privacy.md"
#: The row that tells of each part of an answer; ``total`` and ``parameters`` come besides.
ROWS = {
    keys.COUNTS: "counts of positives and negatives",
    keys.FEATURE_SUMS: "sums of class features",
    keys.FINGERPRINTS: "fingerprints",
    keys.LOSSES: "training losses",
    keys.N_SAMPLES: "number of training images",
    keys.PRIVACY: "privacy in force",
}
OF_TASK = {
    keys.TASK_TRAIN: {**ROWS, keys.ROWS: "validation metrics"},
    keys.TASK_VALIDATE: {**ROWS, keys.ROWS: "validation metrics"},
    keys.TASK_EVALUATE: {
        keys.ROWS: "test metrics",
        keys.TABLES: "what each threshold costs",
        keys.HISTOGRAMS: "histograms of scores",
    },
}


def told(start: str, method: str) -> tuple[int, bool]:
    """Bytes that the page has for a part, for the small network; and whether it says that they vary."""
    column = 3 + ("fednca", "fedavg").index(method)
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" *`") for cell in line.split("|")]
        if len(cells) > column and cells[2].startswith(start):
            number = re.search(r"\d[\d,]*", cells[column].replace("the same", cells[3]))
            assert number, line
            return int(number.group().replace(",", "")), "some" in cells[column] or "same" in cells[column]
    raise AssertionError(f"{PAGE}: no row for {start}")


def size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value if isinstance(value, str) else json.dumps(value))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    tiny_site(folder, "alpha", images=300, size=64, splits={"train": 0.5, "val": 1 / 6, "test": 1 / 3})
    return folder


def answers(site: Path, method: str) -> dict[str, Answer]:
    content = {"method": method, "network": {"backbone": "small"}, "evaluation": {"resamples": 0}}
    settings = parse(JobSettings, content, where="test").for_sites()
    worker = make_worker(settings, load_site_config(site / "alpha" / "site.yaml"), site / "state", "0" * 32)
    model = dict(build_network(settings).state_dict())
    return {task: do_task(worker, Task(task, model, 3, "0" * 32)) for task in OF_TASK}


@pytest.mark.parametrize("method", ["fednca", "fedavg"])
def test_what_leaves_a_site_is_what_the_page_says_byte_for_byte(site: Path, method: str) -> None:
    fobs.register(TensorDecomposer)
    common_decomposers.register()
    given = answers(site, method)
    for task, answer in given.items():
        for key, value in answer.meta.items():  # a part that the page does not name is an error
            expected, varies = told(OF_TASK[task][key], method)
            if varies:
                assert size(value) == pytest.approx(expected, rel=0.5), key
            else:
                assert abs(size(value) - expected) <= 1, key
    trained = given[keys.TASK_TRAIN]
    assert sum(v.numel() * v.element_size() for v in (trained.params or {}).values()) == told("parameters", method)[0]
    for task, start in ((keys.TASK_TRAIN, "total"), (keys.TASK_VALIDATE, "the same without parameters")):
        total = len(fobs.dumps(FLModelUtils.to_shareable(_as_model(given[task]))))
        assert total == pytest.approx(told(start, method)[0], rel=0.03), task  # texts of JSON vary
