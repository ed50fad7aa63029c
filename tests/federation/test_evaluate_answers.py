"""What sites answer to ``evaluate_cxr`` is a stranger's word, and one bad answer costs that site alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nvflare.app_common.abstract.fl_model import FLModel

from nc_medfl.config import JobSettings
from nc_medfl.errors import RunFailed
from nc_medfl.federation import keys
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.federation.workflows.evaluate import EvaluateController
from nc_medfl.federation.workflows.label_statistics import LabelStatisticsController
from nc_medfl.settings import parse

JOB = parse(JobSettings, {"kind": "evaluate", "method": "fedavg", "network": {"backbone": "small"}}, where="test")


def a_row(site: str, **changes: Any) -> dict[str, Any]:
    about = {"run": "r", "model": "fedavg", "site": site, "split": "test", "group": "all", "finding": "Mass"}
    return {
        **about,
        "metric": "auc",
        "value": 0.7,
        "low": 0.6,
        "high": 0.8,
        "n_positive": 9,
        "n_annotated": 40,
    } | changes


def taken(folder: Path, lie: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    controller = EvaluateController(settings=to_arguments(JOB))
    controller.warning = lambda _text: None  # outside FLARE there is no context to log with
    texts = {"honest": json.dumps([a_row("honest")]), "liar": lie}
    answers = {
        site: FLModel(metrics={"answered": 1.0}, meta={"client_name": site, keys.ROWS: text})
        for site, text in texts.items()
    }
    absent: dict[str, str] = {}
    controller.take(JOB, answers, absent, folder)
    return json.loads((folder / keys.SITE_METRICS).read_text())["rows"], absent


def rows_of(*rows: Any) -> str:
    return json.dumps(list(rows))


@pytest.mark.parametrize(
    "lie",
    [
        "{",
        7,
        "[1, 2]",
        "[{}]",
        "[" * 200_000,
        rows_of(a_row("liar", value=7)),
        rows_of(a_row("liar", value="<script>alert(1)</script>")),
        rows_of(a_row("liar", finding="<b>x")),
        rows_of(a_row("liar", more="1")),
        rows_of(a_row("liar"), a_row("liar")),
        rows_of(a_row("honest")),
        rows_of(a_row("liar", n_positive=10**12)),
    ],
)
def test_a_bad_answer_costs_its_site_and_not_the_job(tmp_path: Path, lie: Any) -> None:
    rows, absent = taken(tmp_path, lie)
    assert absent["liar"].startswith("its metrics were refused: ")
    assert [row["value"] for row in rows if row["site"] == "honest"] == [0.7]
    told = [row for row in rows if row["site"] == "liar"]
    assert told
    assert all(row["value"] is None and row["reason"].startswith("no test: its metrics were refused") for row in told)


def test_a_nan_is_undefined_and_no_end_of_the_job(tmp_path: Path) -> None:
    rows, absent = taken(tmp_path, json.dumps([a_row("liar", value=float("nan"))]))
    assert not absent
    assert [row["value"] for row in rows] == [0.7, None]


@pytest.mark.parametrize(
    "lie", ["{", 7, "[1]", "7", "[" * 200_000, '{"minimum": Infinity, "rows": [], "together": []}']
)
def test_label_counts_that_can_not_be_read_are_refused_and_named(tmp_path: Path, lie: Any) -> None:
    controller = LabelStatisticsController(settings=to_arguments(JOB))
    controller.warning = lambda _text: None
    answer = FLModel(metrics={"answered": 1.0}, meta={"client_name": "liar", keys.ROWS: lie})
    absent: dict[str, str] = {}
    with pytest.raises(RunFailed, match="no site's label counts can be used"):
        controller.take(JOB, {"liar": answer}, absent, tmp_path)
    assert absent["liar"].startswith("its label counts")
