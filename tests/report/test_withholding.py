"""What an attentive reader of the federation's page can work out: no small count of a site, by no sum or difference."""

from __future__ import annotations

import csv
import html as markup
import io
import json
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from nc_medfl.config import EvaluationSettings
from nc_medfl.evaluation import write_metrics
from nc_medfl.evaluation.decide import SiteScores, write_decisions
from nc_medfl.evaluation.measured import About, measure_sites
from nc_medfl.evaluation.patients import ScoredSplit
from nc_medfl.labels import Vocabulary
from nc_medfl.report import write_report

N = 200  # test images of a site, a patient each
Counts = Mapping[str, Mapping[str, int]]


def _scored(rng: np.random.Generator, counts: list[int]) -> ScoredSplit:
    labels = np.zeros((N, len(counts)))
    for c, n in enumerate(counts):
        labels[rng.permutation(N)[:n], c] = 1
    return ScoredSplit(1 / (1 + np.exp(-rng.normal(labels, 1.0))), labels, np.arange(N))


def _page(folder: Path, counts: Counts, sex: Mapping[str, np.ndarray] | None = None, site: str | None = None) -> str:
    """The page of sites with so many test positives of each finding."""
    rng = np.random.default_rng(0)
    findings = tuple(next(iter(counts.values())))
    sites = {
        name: SiteScores(
            _scored(rng, [60] * len(findings)),
            _scored(rng, list(own.values())),
            {"sex": sex[name]} if sex else {},
        )
        for name, own in counts.items()
    }
    settings = EvaluationSettings(resamples=40)
    measured = measure_sites(sites, About("run", "model", Vocabulary("made-up", findings), settings))
    write_metrics(measured.rows, folder)
    write_decisions(measured.tables, folder)
    return write_report(folder, site=site).read_text(encoding="utf-8")


def _tables(page: str) -> dict[str, pd.DataFrame]:
    found = re.findall(r'href="data:text/csv[^,]*,([^"]*)" download="([^"]+)\.csv"', page)
    return {
        name: pd.read_csv(io.StringIO(unquote(markup.unescape(text))), dtype=str, keep_default_na=False)
        for text, name in found
    }


def _positives(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["Finding"], table["Positive"], strict=True))


def _told_in_all(page: str) -> list[int]:
    """Sums of positives that the cards at the top name."""
    return [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) positive\b", page)]


def test_the_sum_over_findings_does_not_give_a_withheld_count_away(tmp_path):
    page = _page(tmp_path, {"a": {"X": 50, "Y": 2, "Z": 40}, "b": {"X": 30, "Y": 1, "Z": 20}})
    shown = _positives(_tables(page)["findings-pooled"])
    assert shown == {"X": "80", "Y": "", "Z": "60"}
    assert not [total for total in _told_in_all(page) if 0 < total - 140 < 5]
    assert "1,200 known pairs" in page or "1,200" in page


@pytest.mark.parametrize(
    ("few", "told"),
    [((3, 2, 0), False), ((4, 4, 0), False), ((4, 4, 4), True), ((3, 50, 20), False), ((0, 50, 20), True)],
)
def test_no_site_can_take_its_own_count_from_the_total(tmp_path, few, told):
    counts = {name: {"X": 50, "Y": n} for name, n in zip("abc", few, strict=True)}
    shown = _positives(_tables(_page(tmp_path, counts))["findings-pooled"])["Y"]
    assert bool(shown) is told
    small = [n for n in few if 0 < n < 5]
    if shown and small:  # what is left when a site knows its own
        assert all(sum(small) - own >= 5 for own in small)


def test_what_depends_on_prevalence_is_withheld_with_it(tmp_path):
    tables = _tables(_page(tmp_path, {"a": {"X": 50, "Y": 2}, "b": {"X": 30, "Y": 40}}))
    pooled = tables["findings-pooled"].set_index("Finding")
    assert pooled.loc["Y", "AUC (95%)"]  # 42 positives in all: the model's numbers are told
    for column in ("Positive", "F1 floor", "F1", "PPV", "NPV"):
        assert pooled.loc["Y", column] == "", column
    costs = tables["thresholds"]
    assert (costs[costs["Finding"] == "Y"]["Sensitivity (95%)"] != "").any()
    assert (costs[costs["Finding"] == "Y"][["PPV (95%)", "NPV"]] == "").all(axis=None)


def test_the_mean_over_findings_does_not_give_the_floor_of_a_withheld_one_away(tmp_path):
    tables = _tables(_page(tmp_path, {"a": {"X": 50, "Y": 2, "Z": 40}, "b": {"X": 30, "Y": 45, "Z": 20}}))
    macro = float(tables["sites"].set_index("Site").loc["a", "F1 floor"])
    told = tables["findings-0"].set_index("Finding")["F1 floor"]
    floors = [float(told["X"]), float(told["Z"])]
    # 2 P / (P + N) of two positives among 200 is 0.0198; three findings' mean would leave that.
    assert macro == pytest.approx(np.mean(floors), abs=1e-5)


def test_the_mean_over_sites_leaves_a_withheld_site_out(tmp_path):
    page = _page(tmp_path, {"a": {"X": 2, "Y": 1}, "b": {"X": 30, "Y": 90}, "c": {"X": 40, "Y": 80}})
    table = _tables(page)["sites"].set_index("Site")
    assert table.loc["a", "Macro AUC (95%)"] == ""
    for column in ("Macro AUC (95%)", "Sensitivity", "ECE"):
        others = [float(table.loc[site, column]) for site in ("b", "c")]
        assert float(table.loc["Mean over sites", column]) == pytest.approx(np.mean(others), abs=2e-3)


def test_a_withheld_site_is_in_no_other_table(tmp_path):
    page = _page(tmp_path, {"a": {"X": 2, "Y": 1}, "b": {"X": 30, "Y": 90}, "c": {"X": 40, "Y": 80}})
    tables = _tables(page)
    gaps = tables["gaps"]
    assert not (gaps[["Worst", "Best"]] == "a").any(axis=None)
    assert set(gaps[gaps["Metric"] == "auc"][["Worst", "Best"]].to_numpy().ravel()) == {"b", "c"}
    errors = tables["calibration"]
    assert (errors[errors["Site"] == "a"][["Brier (95%)", "ECE (95%)"]] == "").all(axis=None)
    assert (errors[errors["Site"] == "b"][["Brier (95%)", "ECE (95%)"]] != "").all(axis=None)


def test_a_withheld_group_is_neither_the_worst_nor_the_best(tmp_path):
    counts = {"a": {"X": 50}, "b": {"X": 30}}
    rng = np.random.default_rng(0)
    sex = {}
    for name, own in counts.items():  # the draws of _page, in its order
        _scored(rng, [60])
        positive = np.flatnonzero(_scored(rng, list(own.values())).labels[:, 0] == 1)
        sex[name] = np.full(N, "F", dtype=object)
        sex[name][np.setdiff1d(np.arange(N), positive)[:30]] = "M"
        sex[name][positive[:2]] = "M"  # 32 men, 2 of them with the finding
    page = _page(tmp_path, counts, sex)
    tables = _tables(page)
    groups = tables["groups"]
    assert (groups[groups["Group"] == "sex=M"]["Macro AUC (95%)"] == "").all()
    by_sex = tables["gaps"][tables["gaps"]["Compared by"] == "sex"]
    assert len(by_sex)
    assert not (by_sex[["Worst", "Best"]] == "sex=M").any(axis=None)
    assert "sex M (" not in page


def test_curves_and_reliability_do_not_add_up_to_a_withheld_total(tmp_path):
    counts = {"a": {"X": 50, "Y": 2}, "b": {"X": 30, "Y": 40}, "c": {"X": 40, "Y": 0}}
    page = _page(tmp_path, counts)
    given = json.loads(re.search(r'id="slider-data">(.*?)</script>', page, re.S).group(1))
    share = given["curves"][given["sites"].index("All sites together")][given["findings"].index("Y")][0]
    assert share == pytest.approx(40 / N, abs=1e-4)  # b's alone: a has few positives, c none
    points = _tables(page)["reliability"]
    points = points[(points["Finding"] == "Y") & (points["Scaling"] == "none")]
    total = (points["Images"].astype(int) * points["Positive"].astype(float)).sum()
    assert not 0 < round(total) - 40 < 5
    assert points["Images"].astype(int).sum() <= 2 * N


def test_a_minimum_of_the_job_holds_for_curves_too(tmp_path):
    counts = {"a": {"X": 50, "Y": 12}, "b": {"X": 60, "Y": 70}}
    _page(tmp_path, counts)
    run = {"schema_version": 1, "name": "run", "method": "model", "vocabulary": ["X", "Y"], "sites": ["a", "b"]}
    (tmp_path / "run.json").write_text(json.dumps(run | {"settings": {"aggregation": {"min_positives": 20}}}))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    given = json.loads(re.search(r'id="slider-data">(.*?)</script>', page, re.S).group(1))
    assert given["curves"][given["sites"].index("a")][1] is None
    assert given["curves"][given["sites"].index("b")][1] is not None
    assert given["curves"][0][1][0] == pytest.approx(70 / N, abs=1e-4)


@pytest.mark.parametrize("few", [(3, 0), (2, 1), (2, 40)])
def test_label_totals_do_not_tell_a_withheld_count(tmp_path, few):
    page_counts = {name: {"X": 50, "Y": 30} for name in "ab"}
    _page(tmp_path, page_counts)
    with (tmp_path / "label_statistics.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["site", "split", "n_images", "n_patients", "finding", "n_positive", "n_negative", "n_unknown"])
        for site, n in zip("ab", few, strict=True):
            writer.writerow([site, "train", 500, 500, "X", 100, 400, 0])
            writer.writerow([site, "train", 500, 500, "Y", n, 500 - n, 0])
    tables = _tables(write_report(tmp_path).read_text(encoding="utf-8"))
    row = tables["positives"].set_index("Finding").loc["Y"]
    total = row["All sites"]
    hidden = [n for name, n in zip("ab", few, strict=True) if row[name] == ""]
    assert all(row[name] != str(n) for name, n in zip("ab", few, strict=True) if 0 < n < 5)
    if total:
        assert len(hidden) > 1
        assert sum(hidden) >= 5
    else:
        assert tables["prevalence"].set_index("Finding").loc["Y", "All sites"] == ""


def test_no_subset_of_the_shown_totals_gives_a_small_count(tmp_path):
    """Every difference of a total and shown parts of it, over many made-up federations."""
    rng = np.random.default_rng(3)
    for trial in range(4):
        counts = {s: {f: int(rng.choice([0, 1, 2, 4, 6, 30, 60])) for f in "XYZ"} for s in "abc"}
        folder = tmp_path / str(trial)
        folder.mkdir()
        tables = _tables(_page(folder, counts))
        pooled = _positives(tables["findings-pooled"])
        for finding in "XYZ":
            if not pooled[finding]:
                continue
            own = [_positives(tables[f"findings-{k}"])[finding] for k in range(3)]
            hidden = [counts[s][finding] for s, text in zip("abc", own, strict=True) if not text]
            assert len(hidden) != 1
            for size in range(1, len(hidden) + 1):
                for known in combinations(hidden, size - 1):  # sites that know their own
                    if len(known) < 2:
                        assert not 0 < sum(hidden) - sum(known) < 5
