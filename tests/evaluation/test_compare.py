"""Results and comparisons from tables of predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from nc_medfl.cli.main import app
from nc_medfl.config import EvaluationSettings
from nc_medfl.errors import UserError
from nc_medfl.evaluation.compare import compare_predictions, holm_correction, sentence
from nc_medfl.evaluation.measured import About, measure_sites
from nc_medfl.evaluation.predictions import read_predictions
from nc_medfl.evaluation.tables import COLUMNS, ROUGH
from nc_medfl.evaluation.thresholds import NO_VALIDATION
from nc_medfl.labels import Vocabulary


def _table(path, *, seed=0, n=400, useless=(), splits=("val", "test")):
    rng = np.random.default_rng(0)
    noise = np.random.default_rng(seed)
    data = {
        "sample_id": np.arange(n),
        "patient_key": np.arange(n) // 2,
        "site": np.where(np.arange(n) < n // 2, "north", "south"),
        "split": np.array(splits)[(np.arange(n) // 2) % len(splits)],
    }
    for finding in ("Mass", "Hernia"):
        truth = (rng.random(n) < 0.4).astype(float)
        data["label:" + finding] = pd.array(np.where(rng.random(n) < 0.1, np.nan, truth)).astype("Int64")
        data["score:" + finding] = 1 / (1 + np.exp(-noise.normal(truth * (0 if finding in useless else 2), 1)))
    table = pd.DataFrame(data)
    table.to_csv(path, index=False)
    return table


def _measured(path, resamples):
    table = read_predictions(path)
    vocabulary = Vocabulary("table", table.findings)
    return measure_sites(table.by_site(), About("r", "m", vocabulary, EvaluationSettings(resamples=resamples))).rows


def _cell(rows, **wanted):
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_table_gives_the_auc_of_scikit_learn_and_counts_of_what_is_unknown(tmp_path):
    table = _table(tmp_path / "p.csv")
    rows = _measured(tmp_path / "p.csv", 50)
    assert tuple(rows.columns) == COLUMNS
    part = table[(table.site == "north") & (table.split == "test")]
    known = part[part["label:Mass"].notna()]
    cell = _cell(rows, site="north", finding="Mass", metric="auc")
    assert cell.value == pytest.approx(roc_auc_score(known["label:Mass"].astype(int), known["score:Mass"]))
    assert cell.low < cell.value < cell.high
    assert ROUGH in cell.reason  # 100 images, 40% positives
    unknown = _cell(rows, site="north", finding="Mass", metric="unknown")
    assert unknown.value == part["label:Mass"].isna().sum()
    assert set(rows.site) == {"north", "south", "all", "pooled"}


def test_without_validation_rows_threshold_metrics_are_empty_with_that_reason(tmp_path):
    _table(tmp_path / "p.csv", splits=("test",))
    rows = _measured(tmp_path / "p.csv", 20)
    cell = _cell(rows, site="north", finding="Mass", metric="f1")
    assert np.isnan(cell.value)
    assert cell.reason == NO_VALIDATION


def test_a_worse_finding_is_told_and_an_equal_one_is_not(tmp_path):
    _table(tmp_path / "a.csv")
    _table(tmp_path / "b.csv", useless=("Mass",))
    a, b = (read_predictions(tmp_path / f"{name}.csv") for name in "ab")
    for interval in ("percentile", "bca"):
        rows = compare_predictions(
            a, b, names=("A", "B"), settings=EvaluationSettings(resamples=200, interval=interval)
        )
        mass = _cell(rows, site="pooled", finding="Mass", metric="auc")
        assert mass.low > 0
        assert mass.p_holm >= mass.p
        assert mass.p_delong < 0.001
        assert mass.sentence.endswith("A is better.")
    same = compare_predictions(a, a, names=("A", "A"), settings=EvaluationSettings(resamples=50))
    assert (same.difference.dropna() == 0).all()
    assert same.sentence.str.endswith("no difference is shown.").any()
    brier = _cell(rows, site="pooled", finding="Mass", metric="brier")
    assert brier.difference < 0
    assert brier.sentence.endswith("A is better.")


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04 over three tests: 0.03, 0.06, then 0.04 * 1, held up at 0.06.
    np.testing.assert_allclose(holm_correction([0.04, np.nan, 0.01, 0.03]), [0.06, np.nan, 0.03, 0.06])


def test_other_images_or_labels_are_not_compared(tmp_path):
    table = _table(tmp_path / "a.csv")
    a = read_predictions(tmp_path / "a.csv")
    table.iloc[:-2].to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(UserError, match="other images"):
        compare_predictions(a, read_predictions(tmp_path / "b.csv"), names=("A", "B"))
    table["label:Mass"] = 1
    table.to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(UserError, match="a label differs"):
        compare_predictions(a, read_predictions(tmp_path / "b.csv"), names=("A", "B"))


def test_the_command_writes_both_tables_the_same_each_time(tmp_path):
    _table(tmp_path / "a.csv")
    _table(tmp_path / "b.csv", seed=1)
    written = []
    for out in (tmp_path / "one", tmp_path / "two"):
        arguments = ["evaluate", "--predictions", tmp_path / "a.csv", "--against", tmp_path / "b.csv", "--out", out]
        result = CliRunner().invoke(app, [*map(str, arguments), "--resamples", "30", "--seed", "3"])
        assert result.exit_code == 0, result.output
        written.append([(out / name).read_bytes() for name in ("metrics.csv", "comparisons.csv")])
    assert written[0] == written[1]


def test_the_mean_over_sites_is_that_of_their_differences(tmp_path):
    _table(tmp_path / "a.csv", seed=1)
    _table(tmp_path / "b.csv", seed=2)
    tables = [read_predictions(tmp_path / name) for name in ("a.csv", "b.csv")]
    settings = EvaluationSettings(resamples=60)
    rows = compare_predictions(*tables, names=("A", "B"), settings=settings)
    cells = [_cell(rows, site=site, finding="Mass", metric="auc") for site in ("north", "south")]
    mean = _cell(rows, site="all", finding="Mass", metric="auc")
    assert mean.difference == pytest.approx(np.mean([cell.difference for cell in cells]))
    below = np.hypot(*(cell.difference - cell.low for cell in cells)) / 2
    assert mean.low == pytest.approx(mean.difference - below)
    assert mean.reason == "mean over 2 of 2 sites"
    assert "on average over sites" in mean.sentence
    unpooled = compare_predictions(*tables, names=("A", "B"), settings=settings, pool=False)
    pd.testing.assert_frame_equal(unpooled, rows[rows["site"] != "pooled"].reset_index(drop=True))


def test_without_resamples_or_a_second_patient_nobody_is_better(tmp_path):
    table = _table(tmp_path / "a.csv", n=120)
    _table(tmp_path / "b.csv", n=120, useless=("Mass",))
    a, b = (read_predictions(tmp_path / f"{name}.csv") for name in "ab")
    rows = compare_predictions(a, b, names=("A", "B"), settings=EvaluationSettings(resamples=0))
    assert rows[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert not rows.sentence.str.contains("is better|interval").any()
    for name, useless in (("a", ()), ("b", ("Mass",))):
        one = _table(tmp_path / f"{name}.csv", n=120, useless=useless).assign(
            patient_key="p", split="test", site="north"
        )
        one["sample_id"] = table["sample_id"]
        one.to_csv(tmp_path / f"{name}.csv", index=False)
    a, b = (read_predictions(tmp_path / f"{name}.csv") for name in "ab")
    rows = compare_predictions(a, b, names=("A", "B"), settings=EvaluationSettings(resamples=20))
    assert (_cell(rows, site="north", finding="Mass", metric="auc").difference) > 0.1
    assert rows["low"].isna().all()
    assert not rows.sentence.str.contains("is better").any()


def test_few_patients_with_many_images_make_a_rough_interval(tmp_path):
    for name, useless in (("a", ()), ("b", ("Mass",))):
        table = _table(tmp_path / f"{name}.csv", n=2000, useless=useless)
        table.assign(patient_key=np.arange(2000) % 20, split="test").to_csv(tmp_path / f"{name}.csv", index=False)
    a, b = (read_predictions(tmp_path / f"{name}.csv") for name in "ab")
    rows = compare_predictions(a, b, names=("A", "B"), settings=EvaluationSettings(resamples=50))
    cell = _cell(rows, site="north", finding="Mass", metric="auc")
    assert cell.n_positive > 300
    assert ROUGH in cell.reason
    assert "(rough 95% interval" in cell.sentence
    measured = _measured(tmp_path / "a.csv", 50)
    assert ROUGH in _cell(measured, site="north", finding="Mass", metric="auc").reason
    assert "(rough 95% interval" in _cell(rows, site="north", finding="macro", metric="auc").sentence


def test_a_comparison_measures_what_the_table_of_metrics_measures_scaled_or_not(tmp_path):
    _table(tmp_path / "a.csv", seed=1)
    _table(tmp_path / "b.csv", seed=2)
    tables = [read_predictions(tmp_path / name) for name in ("a.csv", "b.csv")]
    for method in ("none", "temperature", "platt"):
        settings = EvaluationSettings(resamples=0, calibrate=method)
        rows = compare_predictions(*tables, names=("A", "B"), settings=settings)
        about = About("r", "m", Vocabulary("table", tables[0].findings), settings)
        measured = measure_sites(tables[0].by_site(), about).rows
        for site in ("north", "south", "pooled", "all"):
            for metric in ("auc", "f1", "brier", "ece"):
                want = _cell(measured, site=site, finding="Mass", metric=metric, group="all").value
                assert _cell(rows, site=site, finding="Mass", metric=metric).value_a == pytest.approx(want)


def test_a_lacking_difference_names_the_model_that_lacks_the_number(tmp_path):
    table = _table(tmp_path / "ours.csv", n=300)
    quiet = table.copy()
    # At every site it calls nobody positive on test; its threshold from validation is higher than all of that.
    quiet.loc[quiet["split"] == "test", "score:Mass"] *= 1e-6
    quiet.to_csv(tmp_path / "quiet.csv", index=False)
    a, b = (read_predictions(tmp_path / name) for name in ("ours.csv", "quiet.csv"))
    rows = compare_predictions(a, b, names=("ours", "quiet"), settings=EvaluationSettings(resamples=20))
    for site in ("north", "south", "pooled"):
        cell = _cell(rows, site=site, finding="Mass", metric="ppv")
        assert cell.reason == "nothing predicted positive (quiet)"
        assert np.isnan(cell.value_b)
        assert not np.isnan(cell.value_a)
    mean = _cell(rows, site="all", finding="Mass", metric="ppv")
    assert mean.reason == "undefined at every site for quiet"
    assert mean.sentence == "ppv of Mass on average over sites: no comparison (undefined at every site for quiet)."
    only_north = table.copy()
    only_north.loc[(table["site"] == "south") & (table["split"] == "test"), "score:Mass"] *= 1e-6
    only_south = table.copy()
    only_south.loc[(table["site"] == "north") & (table["split"] == "test"), "score:Mass"] *= 1e-6
    for name, changed in (("a.csv", only_north), ("b.csv", only_south)):
        changed.to_csv(tmp_path / name, index=False)
    a, b = (read_predictions(tmp_path / name) for name in ("a.csv", "b.csv"))
    rows = compare_predictions(a, b, names=("a", "b"), settings=EvaluationSettings(resamples=20))
    assert _cell(rows, site="all", finding="Mass", metric="ppv").reason == "at every site undefined for one of the two"


def test_an_interval_apart_from_zero_that_the_correction_takes_back_says_so():
    row = {"site": "north", "metric": "auc", "finding": "Mass", "model_a": "a", "model_b": "b", "reason": ""}
    row |= {"value_a": 0.84, "value_b": 0.757, "difference": 0.083, "low": 0.012, "high": 0.16, "p": 0.026}
    told = sentence({**row, "p_holm": 0.052})
    assert told.endswith("; p corrected over the findings (Holm) is 0.052, so no difference is shown.")
    assert sentence({**row, "p_holm": 0.04}).endswith("; a is better.")
    assert sentence({**row, "low": -0.01, "p_holm": 0.052}).endswith("); no difference is shown.")
