"""What the federation's page leaves out: numbers that rest on few images of a site, and what would give those away.

Who reads the page knows the counts of one site at most, and can add and take away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.evaluation.groups import SITE, fairness_table
from nc_medfl.evaluation.small_counts import WHOLE, few, telling_findings
from nc_medfl.evaluation.tables import ALL_SITES, MACRO, MICRO, POOLED, mean_over_sites

#: What tells how many images are positive, by itself or beside sensitivity and specificity.
OF_PREVALENCE = ("f1_all_positive", "f1", "ppv", "npv", "mcc", "accuracy")

_ENDS = ["value", "low", "high"]
_GIVES_AWAY = "withheld: it would give a count of a site away"
_DIGITS = 3  # as many as the page shows

Bools = npt.NDArray[np.bool_]


def withheld(minimum: int) -> str:
    """Why a number is not shown."""
    return f"withheld: fewer than {minimum} positives or negatives"


def guard_metrics(rows: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """Rows of ``metrics.csv`` without what rests on few images of a site, and without what would tell of it.

    Args:
        rows: of one model on all of a split's patients.
        minimum: the smallest count that is shown.
    """
    out = guard_cells(rows, minimum)
    telling = out["site"].isin(WHOLE) & out["finding"].isin(telling_findings(rows, minimum))
    out.loc[telling, "n_positive"] = np.nan
    _hide(out, telling & out["metric"].isin(OF_PREVALENCE))
    _guard_means_of_findings(out)
    return _means_of_shown_sites(out, rows, minimum)


def guard_groups(rows: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """The same of groups of patients, whose counts are on no page."""
    return _means_of_shown_sites(guard_cells(rows, minimum), rows, minimum) if len(rows) else rows


def guard_cells(rows: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """Each row by itself: few positives or negatives leave its number of images and its reason."""
    out: pd.DataFrame = rows.copy()
    hidden = few(rows["n_positive"], rows["n_annotated"], minimum)
    out["n_positive"] = out["n_positive"].astype(float).where(~hidden)
    _hide(out, hidden, withheld(minimum))
    return out


def _hide(out: pd.DataFrame, rows: pd.Series, reason: str = _GIVES_AWAY) -> None:
    out.loc[rows & out["value"].notna(), "reason"] = reason
    out.loc[rows & (out["reason"] == ""), "reason"] = reason
    out.loc[rows, _ENDS] = np.nan


def _guard_means_of_findings(out: pd.DataFrame) -> None:
    """Where a finding is withheld, its share in sums and means over findings must not be what they lack.

    Means of what tells prevalence are over the other findings; others have no more digits than the page shows.
    """
    single = ~out["finding"].isin([MACRO, MICRO])
    hides = set(out.loc[single & out["n_positive"].isna(), "site"])
    several = out["site"].isin(hides) & ~single
    out.loc[several, "n_positive"] = np.nan
    out.loc[several, _ENDS] = out.loc[several, _ENDS].round(_DIGITS)
    _hide(out, several & (out["finding"] == MICRO) & out["metric"].isin(OF_PREVALENCE))
    macro = several & (out["finding"] == MACRO) & out["metric"].isin(OF_PREVALENCE)
    for index in out.index[macro & out["value"].notna()]:
        row = out.loc[index]
        values = out.loc[single & (out["site"] == row["site"]) & (out["metric"] == row["metric"]), "value"]
        out.loc[index, _ENDS] = [values.mean(), np.nan, np.nan]
        told = int(values.notna().sum())
        out.loc[index, "reason"] = f"mean over {told} of {len(values)} findings: those that are not withheld"


def _means_of_shown_sites(out: pd.DataFrame, rows: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """Means over sites, worked out again where a site's number is withheld: of the others.

    Args:
        out: rows, guarded.
        rows: the same, as they were.
        minimum: for the reason.
    """
    sites = ~out["site"].isin(WHOLE)
    changed = sites & ~_same(out["value"], rows["value"])
    if not changed.any() or not (out["site"] == ALL_SITES).any():
        return out
    keys = ["model", "group", "finding", "metric"]
    at = pd.MultiIndex.from_frame(out[keys])
    affected = at.isin(at[changed])
    again = mean_over_sites(out[sites & affected]).set_index(keys)
    place = (out["site"] == ALL_SITES) & affected
    means = again.reindex(at[place])
    for name in _ENDS:
        out.loc[place, name] = means[name].to_numpy()
    told = means["value"].notna().to_numpy()
    out.loc[place, "reason"] = np.where(told, means["reason"].to_numpy(), withheld(minimum))
    out.loc[place, "n_positive"] = np.nan
    return out


def _same(a: pd.Series, b: pd.Series) -> pd.Series:
    out: pd.Series = (a == b) | (a.isna() & b.isna())
    return out


def guard_fairness(
    table: pd.DataFrame, shown: tuple[pd.DataFrame, pd.DataFrame], given: tuple[pd.DataFrame, pd.DataFrame]
) -> pd.DataFrame:
    """``fairness.csv`` as it would be without the groups and sites that are withheld.

    Args:
        table: as it is.
        shown: rows of sites, and of groups, guarded.
        given: the same, as they were.
    """
    keys = ["site", "attribute", "finding", "metric"]
    changed = {key for a, b in zip(shown, given, strict=True) for key in _changed(a, b)}
    if not changed:
        return table
    parts = [part[part["finding"] == MACRO] for part in shown if len(part)]
    again = fairness_table(pd.concat(parts, ignore_index=True))
    again = again.fillna(dict.fromkeys(("worst_group", "best_group", "reason"), ""))
    kept = [tuple(key) not in changed for key in table[keys].itertuples(index=False, name=None)]
    new = [tuple(key) in changed for key in again[keys].itertuples(index=False, name=None)]
    out: pd.DataFrame = pd.concat([table[kept], again[new]], ignore_index=True)
    return out


def _changed(shown: pd.DataFrame, given: pd.DataFrame) -> Iterator[tuple[str, str, str, str]]:
    """Keys of ``fairness.csv`` that a changed row takes part in."""
    if not len(shown):
        return
    for row in shown[~_same(shown["value"], given["value"])].to_dict("records"):
        attribute = str(row["group"]).partition("=")[0]
        if attribute != "all":
            yield row["site"], attribute, row["finding"], row["metric"]
        elif row["site"] not in WHOLE:
            yield ALL_SITES, SITE, row["finding"], row["metric"]


def guard_comparisons(table: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """Paired differences without those of a site that rest on few positives or negatives, and without their means."""
    out: pd.DataFrame = table.copy()
    hidden = few(table["n_positive"], table["n_annotated"], minimum) & ~table["site"].isin(WHOLE)
    keys = pd.MultiIndex.from_frame(table[["model_a", "model_b", "finding", "metric"]])
    hidden |= (table["site"] == ALL_SITES) & keys.isin(keys[hidden])
    numbers = [*(name for name in table.columns if name.startswith(("value", "p"))), "difference", "low", "high"]
    out.loc[hidden, [*numbers, "n_positive"]] = np.nan
    out.loc[hidden, "reason"] = withheld(minimum)
    out.loc[hidden, "sentence"] = ""
    return out


def guard_extra(name: str, table: pd.DataFrame, minimum: int, telling: Collection[str]) -> pd.DataFrame:
    """One of the tables beside ``metrics.csv``.

    Args:
        name: of the table.
        table: as it is.
        minimum: the smallest count that is shown.
        telling: findings whose counts over all sites are withheld.
    """
    if name == "comparisons":
        return guard_comparisons(table, minimum)
    if name == "thresholds":
        return _guard_thresholds(table, minimum, telling)
    if name == "calibration" and {"test_n_positive", "test_n_annotated"} <= set(table):
        out: pd.DataFrame = table.copy()
        hidden = few(table["test_n_positive"], table["test_n_annotated"], minimum)
        out.loc[hidden, [c for c in table if str(c).startswith("test_")]] = np.nan
        out.loc[hidden, "reason"] = withheld(minimum)
        return out
    if name == "reliability":
        return _guard_points(table, minimum)
    if name == "score_histograms":
        return _guard_histograms(table, minimum)
    return table


def _guard_thresholds(table: pd.DataFrame, minimum: int, telling: Collection[str]) -> pd.DataFrame:
    out: pd.DataFrame = table.copy()
    hidden = few(table["test_n_positive"], table["test_n_annotated"], minimum)
    told = [c for c in table.columns if c == "threshold" or (c.startswith(("test_", "val_")) and "annotated" not in c)]
    out.loc[hidden, told] = np.nan
    out.loc[hidden, "reason"] = withheld(minimum)
    gives_away = ~hidden & (table["site"] == POOLED) & table["finding"].isin(telling)
    metrics = tuple(f"{split}_{metric}" for split in ("test", "val") for metric in OF_PREVALENCE)
    out.loc[gives_away, [c for c in table.columns if c == "test_n_positive" or c.startswith(metrics)]] = np.nan
    out.loc[gives_away & (out["reason"] == ""), "reason"] = _GIVES_AWAY
    return out


def _guard_points(table: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """Points of reliability curves without those of a site that rest on few positives or negatives in all."""
    sums = table.groupby(["site", "method", "finding"])[["n_positive", "n"]].transform("sum")
    out: pd.DataFrame = table[~few(sums["n_positive"], sums["n"], minimum)]
    return out


def _guard_histograms(table: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """Findings of which a site tells enough positives and enough negatives; either alone gives the other away."""
    counts = table.pivot_table(index=["site", "finding"], columns="label", values="count", aggfunc="sum", fill_value=0)
    counts = counts.reindex(columns=["positive", "negative"], fill_value=0)
    enough = counts.index[(counts >= minimum).all(axis=1)]
    out: pd.DataFrame = table[pd.MultiIndex.from_frame(table[["site", "finding"]]).isin(enough)]
    return out
