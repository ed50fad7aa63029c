"""The numbers behind the plots of a study: means over seeds, a table a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from nc_medfl.benchmark.measuring import POOLED

#: Metrics of collapse, with their titles; where it is complete the last is 1 and the others are 0.
COLLAPSE = {
    "nc1": "NC1, spread within classes (to 0)",
    "nc2_angle": "NC2, angles of class means off a simplex's (to 0)",
    "nc2_length": "NC2, spread of the class means' lengths (to 0)",
    "nc3": "NC3, cosine of class means and frame (to 1)",
}
_SKEWS = ("label_skew", "total_variation")
_SITES = (POOLED, "all")


@dataclass(frozen=True)
class PlotData:
    """One plot's numbers.

    Attributes:
        kind: ``curves``, ``classes``, ``collapse`` or ``skew``.
        dataset: what it is of; ``partition`` likewise, empty for ``skew``, which is of all of them.
        table: a row a point: ``method``, its place on the axis, ``mean``, ``sd`` (NaN for one seed) and ``n`` seeds.
    """

    kind: str
    dataset: str
    partition: str
    table: pd.DataFrame

    @property
    def stem(self) -> str:
        """Of its files."""
        return "-".join(part for part in (self.kind, self.dataset, self.partition) if part)


def plot_data(
    results: pd.DataFrame, chosen: pd.DataFrame, runs: pd.DataFrame, methods: Sequence[str]
) -> list[PlotData]:
    """All plots that the tables of a study hold numbers for.

    Args:
        results: rows of ``results.csv``.
        chosen: rows of ``chosen.csv``.
        runs: rows of ``runs.csv``.
        methods: in the order of the matrix.
    """
    out = []
    results, chosen = (table[table["site"].isin(_SITES)] for table in (results, chosen))
    for dataset, partition in runs[["dataset", "partition"]].drop_duplicates().itertuples(index=False):
        of_curve, of_chosen = (_part(table, dataset, partition) for table in (results, chosen))
        curve = of_curve[_is(of_curve, "val", "auc") & (of_curve["finding"] == "macro")]
        classes = of_chosen[_is(of_chosen, "test", "auc") & ~of_chosen["finding"].isin(["macro", "micro"])]
        collapse = of_curve[
            (of_curve["split"] == "test") & of_curve["metric"].isin(COLLAPSE) & (of_curve["finding"] == "all")
        ]
        out += [
            PlotData("curves", dataset, partition, _means(curve, ["round"], methods)),
            PlotData("classes", dataset, partition, _means(classes, ["finding"], methods)),
            PlotData("collapse", dataset, partition, _means(collapse, ["metric", "round"], methods)),
        ]
    macro = chosen[_is(chosen, "test", "auc") & (chosen["finding"] == "macro")]
    for dataset in runs["dataset"].drop_duplicates():
        out.append(PlotData("skew", dataset, "", _against_skew(macro, runs, dataset, methods)))
    return [one for one in out if not one.table.empty]


def _part(table: pd.DataFrame, dataset: str, partition: str) -> pd.DataFrame:
    part: pd.DataFrame = table[(table["dataset"] == dataset) & (table["partition"] == partition)]
    return part


def _is(table: pd.DataFrame, split: str, metric: str) -> pd.Series[bool]:
    return (table["split"] == split) & (table["metric"] == metric)


def _means(rows: pd.DataFrame, by: list[str], methods: Sequence[str]) -> pd.DataFrame:
    """Mean, standard deviation and number of seeds, methods in their order and places in that of the rows."""
    rows = rows.dropna(subset=["value"])
    grouped = rows.groupby(["method", *by], sort=False)["value"]
    table = grouped.agg(mean="mean", sd="std", n="count").reset_index()
    order = {name: number for number, name in enumerate(methods)}
    table = table[table["method"].isin(order)]
    sorted_: pd.DataFrame = table.sort_values(
        ["method", *(name for name in by if name == "round")],
        key=lambda c: c.map(order) if c.name == "method" else c,
        kind="stable",
    ).reset_index(drop=True)
    return sorted_


def _against_skew(macro: pd.DataFrame, runs: pd.DataFrame, dataset: str, methods: Sequence[str]) -> pd.DataFrame:
    rows = macro[macro["dataset"] == dataset]
    means = _means(rows, ["partition"], methods)
    here = runs[runs["dataset"] == dataset].drop_duplicates(["partition", "seed"])
    skew = here.assign(**{name: pd.to_numeric(here[name]) for name in _SKEWS})
    joined = means.merge(skew.groupby("partition", sort=False)[list(_SKEWS)].mean().reset_index(), on="partition")
    order = {name: number for number, name in enumerate(methods)}
    sorted_: pd.DataFrame = joined.sort_values(
        ["method", "label_skew"], key=lambda c: c.map(order) if c.name == "method" else c, kind="stable"
    ).reset_index(drop=True)
    return sorted_
