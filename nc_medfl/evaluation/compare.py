"""Two models on the same patients: paired differences, Holm-corrected over findings, and a sentence each."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.config import EvaluationSettings
from nc_medfl.data.store import write_atomic
from nc_medfl.errors import UserError
from nc_medfl.evaluation.calibrated import NONE, fit_scaling
from nc_medfl.evaluation.decide import rule_of
from nc_medfl.evaluation.predictions import Predictions
from nc_medfl.evaluation.tables import ALL_SITES, MACRO, MICRO, POOLED, ROUGH, few_patients
from nc_medfl.evaluation.thresholds import choose_thresholds
from nc_medfl.metrics.bootstrap import Intervals, intervals_of, leave_groups_out, resample, with_steady_macro
from nc_medfl.metrics.classification import METRICS, NOT_A_NUMBER, Floats, Sample, measure, prepare_sample, reasons
from nc_medfl.metrics.delong import delong, difference_p
from nc_medfl.metrics.fairness import Estimate, mean_interval

COMPARISONS_CSV = "comparisons.csv"
COLUMNS = (
    *("model_a", "model_b", "site", "split", "group", "finding", "metric", "value_a", "value_b", "difference"),
    *("low", "high", "p", "p_holm", "p_delong", "n_positive", "n_annotated", "reason", "sentence"),
)

NONE_FOR_BOTH = "no finding is defined for both"
NOT_CALIBRATED = "not calibrated: nothing could be fitted on validation"

#: Metrics of which a smaller value is the better one.
_ERRORS = ("brier", "ece")


def align(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions]:
    """The rows of ``b`` in the order of ``a``.

    Raises:
        UserError: if the two are not of the same images, patients, splits, findings and labels.
    """
    if a.findings != b.findings:
        if set(a.findings) != set(b.findings):
            raise UserError("--against: the two tables hold other findings. Compare predictions of the same findings.")
        raise UserError("--against: the findings stand in another order. Write both tables in one order.")
    keys_a, keys_b = ([(p.sites[s], i) for s, i in zip(p.site, p.sample_id, strict=True)] for p in (a, b))
    place = {key: row for row, key in enumerate(keys_b)}
    if len(keys_a) != len(keys_b) or any(key not in place for key in keys_a):
        raise UserError("--against: the two tables hold other images. Compare predictions of the same sample_ids.")
    b = b.where(np.array([place[key] for key in keys_a], dtype=np.int64))
    if not np.array_equal(a.labels, b.labels, equal_nan=True):
        raise UserError("--against: a label differs between the two tables. Compare predictions of the same labels.")
    patients_differ = not np.array_equal(pd.factorize(a.patient)[0], pd.factorize(b.patient)[0])
    if patients_differ or not np.array_equal(a.split, b.split):
        raise UserError("--against: a patient_key or split differs between the two tables. Compare the same patients.")
    return a, b


def compare_predictions(
    a: Predictions,
    b: Predictions,
    *,
    names: tuple[str, str],
    settings: EvaluationSettings | None = None,
    seed: int = 0,
    pool: bool = True,
) -> pd.DataFrame:
    """Differences ``a - b`` of every metric on the test rows: at each site, their mean over sites, and pooled.

    Both models are measured on the same resampled patients, each at thresholds of its own from its validation.

    Args:
        a: of one model.
        b: of the other.
        names: of both, for the rows.
        settings: rule of the thresholds, resamples (at least 1) and kind of interval; None takes the defaults.
        seed: of the bootstrap.
        pool: False leaves ``pooled`` out, which says nothing where each site's images were scored by another model.

    Returns:
        Rows with :data:`COLUMNS`. ``p`` is the bootstrap's, two-sided; ``p_holm`` corrects it over the findings of
        a site and metric; ``p_delong`` is for the AUC alone.

    Raises:
        UserError: if the two don't match or have no test row.
    """
    settings = settings or EvaluationSettings()
    a, b = (_scaled(table, settings) for table in align(a, b))
    if not (a.split == "test").any():
        raise UserError("no row with split 'test' to compare on. Mark the rows to be measured as test.")
    rows: list[dict[str, Any]] = []
    for site in (*a.sites, POOLED) if pool else a.sites:
        pair = [(p if site == POOLED else p.of(site=site)) for p in (a, b)]
        if not (pair[0].split == "test").any():
            continue
        about = {"model_a": names[0], "model_b": names[1], "site": site, "split": "test", "group": "all"}
        rows += [{**about, **row} for row in _place(pair[0], pair[1], names, settings, seed)]
    rows += _means(rows)
    for row in rows:
        row["sentence"] = sentence(row)
    table: pd.DataFrame = pd.DataFrame(rows, columns=list(COLUMNS))
    return table


def _means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of site ``all``: the mean over two sites or more of their differences, where those are defined.

    The interval is put together from the sites' own, which are of different patients.
    """
    table = pd.DataFrame([row for row in rows if row["site"] != POOLED])
    if table["site"].nunique() < 2:
        return []
    out: list[dict[str, Any]] = []
    for _, part in table.groupby(["finding", "metric"], sort=False):
        told = part[part["difference"].notna()]
        ends = (told[name].tolist() for name in ("difference", "low", "high"))
        low, high = mean_interval([Estimate("", *end) for end in zip(*ends, strict=True)])
        row: dict[str, Any] = {str(name): value for name, value in part.iloc[0].items()}
        row |= {name: told[name].mean() for name in ("value_a", "value_b", "difference")}
        row |= {"site": ALL_SITES, "low": low, "high": high, "p": np.nan, "p_holm": np.nan, "p_delong": np.nan}
        row |= {name: int(part[name].sum()) for name in ("n_positive", "n_annotated")}
        used = f"mean over {len(told)} of {len(part)} sites" if len(told) else _nowhere(part)
        rough = bool(told["reason"].str.contains(ROUGH, regex=False).any())
        out.append({**row, "reason": used, "rough": rough})
    return out


def _nowhere(part: pd.DataFrame) -> str:
    """Why no site has a difference: both lack the number everywhere, or one does, or now one and now the other."""
    lacks = [str(part[f"model_{x}"].iloc[0]) for x in "ab" if part[f"value_{x}"].isna().all()]
    if len(lacks) == 1:
        return f"undefined at every site for {lacks[0]}"
    return "undefined at every site" if lacks else "at every site undefined for one of the two"


def _scaled(table: Predictions, settings: EvaluationSettings) -> Predictions:
    """The table with each site's scores scaled as the settings say, by maps fitted on its validation rows."""
    if settings.calibrate == NONE:
        return table
    scores = table.scores.copy()
    for code, site in enumerate(table.sites):
        validation = table.of(site=site, split="val")
        here = table.site == code
        scores[here] = fit_scaling(validation.scores, validation.labels, settings.calibrate).apply(scores[here])
    return replace(table, scores=scores)


def _sample(predictions: Predictions, settings: EvaluationSettings) -> Sample:
    val, test = predictions.of(split="val"), predictions.of(split="test")
    rule = rule_of(settings)
    chosen = choose_thresholds(val.scores, val.labels, rule=rule.rule, target=rule.target)
    return prepare_sample(test.scores, test.labels, chosen.values, chosen.reasons)


def _place(
    a: Predictions, b: Predictions, names: tuple[str, str], settings: EvaluationSettings, seed: int
) -> list[dict[str, Any]]:
    test_a, test_b = a.of(split="test"), b.of(split="test")
    patients = test_a.patient
    samples = [_sample(a, settings), _sample(b, settings)]
    whole = [measure(s) for s in samples]
    texts = [reasons(s, w) for s, w in zip(samples, whole, strict=True)]
    why_none = _no_interval(patients, settings)
    draws = [resample(s, patients, resamples=1 if why_none else settings.resamples, seed=seed) for s in samples]
    bca = settings.interval == "bca" and not why_none
    left = [leave_groups_out(s, patients, seed=seed) for s in samples] if bca else None
    few = few_patients(samples[0], patients)
    check = _delong_p(test_a, test_b)
    n_positive, n_annotated = samples[0].n_positive, samples[0].n_annotated
    rows = []
    for metric in METRICS:
        value = [_same_findings(w[metric], whole, metric)[0] for w in whole]
        difference = value[0] - value[1]
        drawn = with_steady_macro(draws[0][metric] - draws[1][metric], difference)
        jack = None
        if left:
            jack = _same_findings(left[0][metric], whole, metric) - _same_findings(left[1][metric], whole, metric)
        found = intervals_of(drawn, difference, left_out=jack)
        if why_none:
            none = np.full(len(difference), np.nan)
            found = Intervals(none, none, (why_none,) * len(difference))
        p = np.where(np.isnan(found.low) | np.isnan(difference), np.nan, _bootstrap_p(drawn))
        holm = np.append(holm_correction(p[:-2]), [np.nan, np.nan])
        for k, finding in enumerate((*test_a.findings, MACRO, MICRO)):
            defined = not np.isnan(difference[k])
            column = k if k < len(test_a.findings) else -1
            why = [text[metric][k] for text in texts]
            remark = [found.reasons[k] if defined else _undefined(why, [v[k] for v in value], names, settings)]
            if not defined and finding == MACRO:
                remark = [NONE_FOR_BOTH]
            if defined and few[k] and not np.isnan(found.low[k]):
                remark.append(ROUGH)
            cell = {"finding": finding, "metric": metric, "value_a": value[0][k], "value_b": value[1][k]}
            cell |= {"difference": difference[k], "low": found.low[k], "high": found.high[k], "p": p[k]}
            cell |= {"p_holm": holm[k], "p_delong": check[k] if metric == "auc" and k < len(check) else np.nan}
            cell |= {"n_positive": int(n_positive[column]), "n_annotated": int(n_annotated[column])}
            rows.append({**cell, "reason": "; ".join(text for text in remark if text)})
    return rows


def _no_interval(patients: npt.NDArray[np.int64], settings: EvaluationSettings) -> str:
    if not settings.resamples:
        return "no interval: no resamples were asked for"
    return "no interval: fewer than 2 patients" if len(np.unique(patients)) < 2 else ""


def _undefined(texts: list[str], values: list[float], names: tuple[str, str], settings: EvaluationSettings) -> str:
    """Why there is no difference, and for which model if the other has a number."""
    if settings.calibrate != NONE:
        texts = [NOT_CALIBRATED if text == NOT_A_NUMBER else text for text in texts]
    lacks = [k for k, value in enumerate(values) if np.isnan(value)]
    if len(lacks) == 1:
        return f"{texts[lacks[0]]} ({names[lacks[0]]})"
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} ({names[0]}); {texts[1]} ({names[1]})"


def _same_findings(values: Floats, whole: list[dict[str, Floats]], metric: str) -> Floats:
    """The same values, with a macro over the findings that are defined for both models."""
    both = ~np.isnan(whole[0][metric][0, :-2]) & ~np.isnan(whole[1][metric][0, :-2])
    values = values.copy()
    values[:, -2] = values[:, :-2][:, both].mean(axis=1) if both.any() else np.nan
    return values


def _bootstrap_p(drawn: Floats) -> Floats:
    """Twice the smaller share of resamples on either side of no difference; never quite 0."""
    n = (~np.isnan(drawn)).sum(axis=0)
    sides = np.minimum((drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0))
    p: Floats = np.minimum(1.0, 2 * (sides + 1) / (n + 1))
    return p


def _delong_p(a: Predictions, b: Predictions) -> list[float]:
    out = []
    for c in range(len(a.findings)):
        known = ~np.isnan(a.labels[:, c])
        auc, covariance = delong(
            np.stack([a.scores[known, c], b.scores[known, c]]), a.labels[known, c], a.patient[known]
        )
        out.append(difference_p(auc, covariance))
    return out


def holm_correction(p: npt.ArrayLike) -> Floats:
    """Holm's step-down correction; NaN stays NaN and is not counted.

    Args:
        p: of each test, ``[C]``.
    """
    p = np.asarray(p, dtype=np.float64)
    out = np.full(p.shape, np.nan)
    order = [int(k) for k in np.argsort(p, kind="stable") if not np.isnan(p[k])]
    largest = 0.0
    for step, k in enumerate(order):
        largest = max(largest, min(1.0, float(p[k]) * (len(order) - step)))
        out[k] = largest
    return out


def sentence(row: dict[str, Any]) -> str:
    """What a comparison says, in words."""
    whole = {POOLED: "over all patients", ALL_SITES: "on average over sites"}
    where = whole.get(row["site"], f"at {row['site']}")
    what = f"{row['metric']} of {row['finding']} {where}"
    if np.isnan(row["difference"]):
        return f"{what}: no comparison ({row['reason'] or 'undefined'})."
    text = f"{what}: {row['model_a']} {row['value_a']:.3f}, {row['model_b']} {row['value_b']:.3f}"
    if np.isnan(row["low"]):
        return f"{text}; how sure that is can't be told."
    rough = "rough " if row.get("rough") or ROUGH in row["reason"] else ""
    text += f", difference {row['difference']:+.3f} ({rough}95% interval {row['low']:+.3f} to {row['high']:+.3f})"
    p = row["p"] if np.isnan(row["p_holm"]) else row["p_holm"]
    apart = row["low"] > 0 or row["high"] < 0
    if not apart or p > 0.05:
        corrected = "" if np.isnan(row["p_holm"]) else " corrected over the findings (Holm)"
        return f"{text}; {f'p{corrected} is {p:.2g}, so ' if apart else ''}no difference is shown."
    better = row["model_b"] if (row["difference"] > 0) == (row["metric"] in _ERRORS) else row["model_a"]
    return f"{text}; {better} is better."


def write_comparisons(rows: pd.DataFrame, folder: Path) -> Path:
    """Write ``comparisons.csv``, whole or not at all."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows.itertuples(index=False):
        writer.writerow([f"{v:.6g}" if isinstance(v, float) and v == v else "" if v != v else v for v in row])
    write_atomic(folder / COMPARISONS_CSV, stream.getvalue().encode())
    return folder / COMPARISONS_CSV
