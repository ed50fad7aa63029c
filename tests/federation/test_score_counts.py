"""Histograms of scores on their way: nothing small leaves a site, and nothing malformed gets into a table."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from nc_medfl.config import JobSettings, PrivacySettings
from nc_medfl.evaluation.patients import Scored
from nc_medfl.evaluation.result_tables import write_rows
from nc_medfl.federation import audit, keys
from nc_medfl.federation.federation_wide import NO_SITE, federation_rows, write_federation
from nc_medfl.federation.refusal import RefusedUpdate
from nc_medfl.federation.score_counts import counts_text, read_counts
from nc_medfl.federation.tasks import Answer
from nc_medfl.metrics.histograms import N_BINS

FINDINGS = ("Mass", "Nodule")


def a_site(seed: int, n: int = 60, positive: float = 0.3) -> Any:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < positive).astype(float)
    labels[rng.random((n, 2)) < 0.2] = np.nan
    scores = 1 / (1 + np.exp(-(rng.normal(0, 2, (n, 2)) + np.nan_to_num(labels))))
    return SimpleNamespace(scores=scores, labels=labels, patients=np.arange(n) // 2)


def sent(found: Scored, **privacy: Any) -> dict[str, Any]:
    return {keys.HISTOGRAMS: counts_text({"test": found}, FINDINGS, PrivacySettings(**privacy))}


def rows_of(site: str, found: Scored) -> list[dict[str, Any]]:
    """The counts of labels that a site tells with its metrics."""
    about = {"site": site, "split": "test", "group": "all", "metric": "auc"}
    counts = [(int((column == 1).sum()), int((~np.isnan(column)).sum())) for column in found.labels.T]
    return [
        {**about, "finding": name, "n_positive": positive, "n_annotated": annotated}
        for name, (positive, annotated) in zip(FINDINGS, counts, strict=True)
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 80), st.floats(0, 1)), min_size=1, max_size=4),
    st.sampled_from([1, 3, 8]),
)
def test_what_the_server_works_out_bounds_the_auc_of_all_patients_together(
    drawn: list[tuple[int, int, float]], minimum: int
) -> None:
    sites = {f"site{k}": a_site(*numbers) for k, numbers in enumerate(drawn)}
    told = {name: read_counts(sent(found, min_bin_patients=minimum), FINDINGS, 1000) for name, found in sites.items()}
    own = [row for name, found in sites.items() for row in rows_of(name, found)]
    rows = federation_rows({k: v for k, v in told.items() if v}, own, FINDINGS, run="r", model="m")
    for c, finding in enumerate(FINDINGS):
        scores = np.concatenate([found.scores[:, c] for found in sites.values()])
        labels = np.concatenate([found.labels[:, c] for found in sites.values()])
        known = ~np.isnan(labels)
        row = next(r for r in rows if (r["finding"], r["metric"]) == (finding, "auc"))
        assert row["n_annotated"] + row["n_withheld"] == known.sum()
        if row["value"] is not None:
            exact = roc_auc_score(labels[known], scores[known])
            assert row["low"] - 1e-9 <= exact <= row["high"] + 1e-9
    macro = next(r for r in rows if (r["finding"], r["metric"]) == ("macro", "brier"))
    assert macro["value"] is None or macro["low"] <= macro["value"] <= macro["high"]


def test_bounds_still_bound_when_they_are_written_with_six_digits(tmp_path: Any) -> None:
    scores, labels = (np.repeat([column], 2, axis=0).T for column in ([0.5, 0.1, 0.2, 0.9], [1.0, 0.0, 0.0, 0.0]))
    site = SimpleNamespace(scores=scores, labels=labels, patients=np.arange(4))
    text = counts_text({"test": site}, FINDINGS, PrivacySettings(min_bin_patients=1))
    told = read_counts({keys.HISTOGRAMS: text}, FINDINGS, 1000)
    assert told is not None
    rows = federation_rows({"one": told}, rows_of("one", site), FINDINGS, run="r", model="m")
    table = pd.read_csv(write_rows(pd.DataFrame(rows), tmp_path / "federation.csv"))
    found = table[table["metric"] == "auc"]
    # The one positive is above two of three negatives, and every score is alone in its bin.
    assert found["low"].tolist() == [0.666666] * 3
    assert found["high"].tolist() == [0.666667] * 3


def test_the_audit_trail_counts_the_runs_that_leave_and_keeps_none_of_them() -> None:
    meta = sent(a_site(2))
    content = json.loads(meta[keys.HISTOGRAMS])["test"]
    entry = audit.sent(Answer(None, meta), {})["meta"][keys.HISTOGRAMS]
    assert entry == {"runs": {"test": sum(len(kind) for kinds in content.values() for kind in kinds)}}


def test_every_run_that_leaves_holds_as_many_patients_as_the_site_wants() -> None:
    found = a_site(1)
    content = json.loads(sent(found, min_bin_patients=6)[keys.HISTOGRAMS])
    for kinds in content["test"].values():
        for runs in kinds:
            # Two images a patient: six patients have six images or more.
            assert all(count >= 6 for _, _, count in runs)


def test_a_finding_with_few_positives_is_left_out_altogether() -> None:
    found = a_site(1)
    found.labels[:, 0] = np.where(found.labels[:, 0] == 1, 0, found.labels[:, 0])
    found.labels[:3, 0] = 1
    told = read_counts(sent(found, min_test_positives=4), FINDINGS, 1000)
    assert told is not None
    assert set(told["test"]) == {"Nodule"}


def test_an_unknown_label_is_in_no_histogram() -> None:
    found = a_site(1)
    found.labels[:, 0] = np.nan
    told = read_counts(sent(found), FINDINGS, 1000)
    assert told is not None
    assert told["test"]["Mass"].positive.total + told["test"]["Mass"].negative.total == 0


def test_a_finding_that_no_site_tells_of_is_empty_with_its_reason() -> None:
    rows = federation_rows({}, [], FINDINGS, run="r", model="m")
    assert {row["reason"] for row in rows if row["finding"] != "macro"} == {NO_SITE}
    assert all(row["value"] is None for row in rows)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c | {"bins": 7},
        lambda c: c | {"train": {}},
        lambda c: c | {"test": {"Hernia": [[], []]}},
        lambda c: c | {"test": {"Mass": [[]]}},
        lambda c: c | {"test": {"Mass": [[[0, N_BINS, 5]], []]}},
        lambda c: c | {"test": {"Mass": [[[5, 4, 5]], []]}},
        lambda c: c | {"test": {"Mass": [[[0, 4, 0]], []]}},
        lambda c: c | {"test": {"Mass": [[[0, 4, -5]], []]}},
        lambda c: c | {"test": {"Mass": [[[0, 4, 5.0]], []]}},
        lambda c: c | {"test": {"Mass": [[[0, 4, True]], []]}},
        lambda c: c | {"test": {"Mass": [[[0, 4, 5], [4, 6, 5]], []]}},
        lambda c: c | {"test": {"Mass": [[[0, 4, 1001]], []]}},
        lambda c: [c],
    ],
)
def test_malformed_histograms_are_refused(spoil: Any) -> None:
    content = json.loads(sent(a_site(0))[keys.HISTOGRAMS])
    with pytest.raises(RefusedUpdate, match="its histograms"):
        read_counts({keys.HISTOGRAMS: json.dumps(spoil(content))}, FINDINGS, 1000)


def test_histograms_that_are_no_json_text_are_refused_and_none_at_all_are_none() -> None:
    for text in ("{", "[" * 100_000, 3, b"{}"):
        with pytest.raises(RefusedUpdate):
            read_counts({keys.HISTOGRAMS: text}, FINDINGS, 1000)
    assert read_counts({}, FINDINGS, 1000) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["test", "val", "Mass", "bins"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(content=JSON)
def test_no_json_at_all_raises_anything_but_a_refusal(content: Any) -> None:
    given = {**content, "bins": N_BINS} if isinstance(content, dict) else content
    try:
        read_counts({keys.HISTOGRAMS: json.dumps(given)}, FINDINGS, 1000)
    except RefusedUpdate:
        return


def test_a_site_with_malformed_histograms_is_left_out_and_told_of(tmp_path: Any) -> None:
    warnings: list[str] = []
    write_federation(
        tmp_path, {"a": {keys.HISTOGRAMS: "{"}, "b": {}}, [], JobSettings(vocabulary="rsna1"), warnings.append
    )
    assert warnings == ["histograms of a refused: its histograms are not valid JSON"]
    lines = (tmp_path / keys.FEDERATION_CSV).read_text().splitlines()
    assert lines[0].startswith("run,model,split,finding,metric,value,low,high")
    assert len(lines) == 1 + 2 * 3
