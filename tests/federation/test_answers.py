"""What a site may report as text, and what comes of text that is none of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.federation import answers, keys
from nc_medfl.federation.answers import read_losses, read_test, read_validation
from nc_medfl.federation.refusal import RefusedUpdate

FINDINGS = ("Edema", "Mass")
ROW = {"split": "val", "finding": "Mass", "metric": "auc", "value": 0.7, "n_positive": 3, "n_annotated": 9}
TEST = {**ROW, "split": "test", "site": "a", "group": "all", "low": None, "high": None, "run": "r", "model": "m"}


def validation(content: Any) -> list[dict[str, Any]]:
    text = content if isinstance(content, str) else json.dumps(content)
    return read_validation({keys.ROWS: text}, FINDINGS, 100)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not valid JSON"),
        ('[{"split": "val"', "not valid JSON"),
        ("[" * 50_000 + "]" * 50_000, "not valid JSON"),
        ("9" * 10_000, "not valid JSON|list of rows"),
        ({"rows": []}, "list of rows"),
        ([1], "columns"),
        ([{**ROW, "patient": "x"}], "columns"),
        ([{"split": "val", "finding": "Mass", "metric": "auc"}], "columns"),
        ([{**ROW, "finding": "Other"}], "vocabulary"),
        ([{**ROW, "finding": None}], "vocabulary"),
        ([{**ROW, "finding": ["Mass"]}], "vocabulary"),
        ([{**ROW, "split": "test"}], "another split"),
        ([{**ROW, "value": "high"}], "something else than numbers"),
        ([{**ROW, "value": True}], "something else than numbers"),
        ([{**ROW, "value": -0.2}], "outside"),
        ([{**ROW, "n_positive": -1}], "counts"),
        ([{**ROW, "n_positive": 10**9}], "counts"),
        ([{**ROW, "n_positive": 0.5}], "counts"),
        ([{**ROW, "n_positive": float("inf")}], "counts"),
        ([{**ROW, "n_positive": float("nan")}], "counts"),
        ([{**ROW, "reason": "a\nb"}], "reason"),
        ([{**ROW, "reason": "x" * 1000}], "reason"),
        ([{**ROW, "metric": "x" * 100}], "short names"),
        ([ROW, {**ROW, "value": 0.9}], "twice"),
    ],
)
def test_malformed_rows_are_refused(content: Any, reason: str) -> None:
    with pytest.raises(RefusedUpdate, match=reason):
        validation(content)


def test_huge_text_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_CHARACTERS", 1000)
    with pytest.raises(RefusedUpdate, match="longer"):
        validation("[" + " " * 1000 + "]")


def test_a_value_that_is_not_a_number_is_undefined() -> None:
    for value in (None, float("nan"), float("inf")):
        assert validation([{**ROW, "value": value}])[0]["value"] is None
    assert validation('[{"split": "val", "finding": "Mass", "metric": "auc", "value": 1e999}]')[0]["value"] is None


def test_rows_that_are_right_come_through() -> None:
    rows = [ROW, {**ROW, "finding": "macro", "n_positive": 200, "reason": None}]
    assert validation(rows) == [ROW, {**ROW, "finding": "macro", "n_positive": 200, "reason": ""}]
    assert read_validation({}, FINDINGS, 100) == []
    assert read_test({keys.ROWS: json.dumps([TEST]), "client_name": "a"}, FINDINGS, 100) == [TEST]


@pytest.mark.parametrize("metric", ["mcc", "threshold"])
def test_a_metric_that_can_be_negative_may_be(metric: str) -> None:
    assert validation([{**ROW, "metric": metric, "value": -0.2}])[0]["value"] == -0.2


def test_a_site_speaks_for_itself_alone() -> None:
    with pytest.raises(RefusedUpdate, match="another site"):
        read_test({keys.ROWS: json.dumps([TEST]), "client_name": "b"}, FINDINGS, 100)
    with pytest.raises(RefusedUpdate, match="not text"):
        read_test({"client_name": "b"}, FINDINGS, 100)


@pytest.mark.parametrize(
    "losses",
    ["[1]", "{", '{"loss": "low"}', '{"": 1}', json.dumps({f"l{n}": 1 for n in range(100)}), {"loss": 1}, 3],
)
def test_malformed_losses_are_refused(losses: Any) -> None:
    with pytest.raises(RefusedUpdate, match="training losses"):
        read_losses({keys.LOSSES: losses})


def test_losses_that_are_not_finite_are_undefined() -> None:
    assert read_losses({keys.LOSSES: '{"loss": NaN, "bce": 0.5, "reg": -Infinity}'}) == {
        "loss": None,
        "bce": 0.5,
        "reg": None,
    }
    assert read_losses({}) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ROW, "reason", "x"]), inner),
    max_leaves=20,
)


@given(content=JSON)
def test_no_json_at_all_raises_anything_but_a_refusal(content: Any) -> None:
    for read in (read_losses, lambda m: read_validation(m, FINDINGS, 100), lambda m: read_test(m, FINDINGS, 100)):
        meta = {keys.ROWS: json.dumps(content), keys.LOSSES: json.dumps(content), "client_name": "a"}
        try:
            read(meta)
        except RefusedUpdate:
            continue
