"""The tables of a study: Markdown, LaTeX and CSV, from ``chosen.csv``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.benchmark.comparing import Interval, best_method, difference, t_interval, values_of
from nc_medfl.benchmark.matrix import Matrix
from nc_medfl.benchmark.results import CHOSEN, RUNS_CSV, read_table
from nc_medfl.benchmark.searching import found_lines
from nc_medfl.data.store import write_atomic

#: Metrics of the tables, with their titles; means over findings, of the test split.
METRICS = {
    "auc": "macro AUC",
    "average_precision": "mean AP",
    "f1": "macro F1",
    "f1_half": "F1 at 0.5",
    "f1_validation": "F1, thresholds of validation",
    "f1_all_positive": "F1 of all positive",
}
_COMPARED = ("auc", "average_precision", "f1", "f1_half", "f1_validation")
SUMMARY, DIFFERENCES = "summary", "differences"


def write_tables(matrix: Matrix, out: Path) -> str:
    """Write ``summary`` and ``differences`` as .csv, .md and .tex; give the Markdown.

    Args:
        matrix: for the order of methods, and the one that others are compared with.
        out: the study, with its collected tables.
    """
    chosen = read_table(out / CHOSEN)
    if chosen.empty:
        return ""
    baseline = matrix.baseline or next(iter(matrix.methods))
    summary, gaps = summary_rows(chosen, list(matrix.methods)), difference_rows(chosen, list(matrix.methods), baseline)
    pd.DataFrame(summary).to_csv(out / f"{SUMMARY}.csv", index=False, float_format="%.6g", lineterminator="\n")
    pd.DataFrame(gaps).to_csv(out / f"{DIFFERENCES}.csv", index=False, float_format="%.6g", lineterminator="\n")
    text = _markdown(out, summary, gaps, baseline)
    write_atomic(out / "tables.md", text.encode())
    write_atomic(out / "tables.tex", _latex(summary, gaps, baseline).encode())
    return text


def summary_rows(chosen: pd.DataFrame, methods: list[str]) -> list[dict[str, Any]]:
    """A row a (dataset, partition, method, metric): mean, sd, n, and whether it may be called the best."""
    rows = []
    for metric in METRICS:
        table = values_of(chosen, metric)
        for (dataset, partition), values in table.groupby(level=["dataset", "partition"], sort=False):
            best = None if metric == "f1_all_positive" else best_method(values)
            for method in methods:
                if method not in values or values[method].isna().all():
                    continue
                found = t_interval(values[method].to_numpy())
                about = {"dataset": dataset, "partition": partition, "method": method, "metric": metric}
                rows.append({**about, **_numbers(found), "best": method == best})
    return rows


def difference_rows(chosen: pd.DataFrame, methods: list[str], baseline: str) -> list[dict[str, Any]]:
    """A row a (dataset, partition, method, metric): the mean of method minus baseline over seeds, and its interval."""
    rows = []
    for metric in _COMPARED:
        table = values_of(chosen, metric)
        for (dataset, partition), values in table.groupby(level=["dataset", "partition"], sort=False):
            if baseline not in values:
                continue
            for method in methods:
                if method in values and method != baseline:
                    about = {"dataset": dataset, "partition": partition, "method": method, "baseline": baseline}
                    rows.append({**about, "metric": metric, **_numbers(difference(values, method, baseline))})
    return rows


def _numbers(found: Interval) -> dict[str, Any]:
    return {"mean": found.mean, "sd": found.sd, "low": found.low, "high": found.high, "n": found.n}


def _cells(rows: list[dict[str, Any]], dataset: str, partition: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of a data set and partition by method and metric."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if (row["dataset"], row["partition"]) == (dataset, partition):
            out.setdefault(row["method"], {})[row["metric"]] = row
    return out


def _places(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["dataset"], row["partition"]) for row in rows))


def _value(row: dict[str, Any] | None, bold: str = "**{}**") -> str:
    if row is None or np.isnan(row["mean"]):
        return ""
    text = f"{row['mean']:.3f}" + ("" if np.isnan(row["sd"]) else f" ± {row['sd']:.3f}")
    return bold.format(text) if row["best"] else text


def _gap(row: dict[str, Any] | None) -> str:
    if row is None or np.isnan(row["mean"]):
        return ""
    text = f"{100 * row['mean']:+.2f}"
    return text if np.isnan(row["low"]) else f"{text} [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"


def _markdown(out: Path, summary: list[dict[str, Any]], gaps: list[dict[str, Any]], baseline: str) -> str:
    runs = read_table(out / RUNS_CSV)
    lines = [
        "# Tables",
        "",
        "Test split, mean ± standard deviation over seeds. Bold: its paired 95 % t-interval against every other method "
        "excludes 0. Differences in points, with their paired 95 % t-interval over seeds.",
    ]
    for dataset, partition in _places(summary):
        here = runs[(runs["dataset"] == dataset) & (runs["partition"] == partition)]
        lines += ["", f"## {dataset}, {partition}", "", _skew_line(here), ""]
        lines += _table(["method", "seeds", *METRICS.values()], _summary_lines(_cells(summary, dataset, partition)))
        cells = _cells(gaps, dataset, partition)
        if cells:
            lines += ["", f"Minus {baseline}:", ""]
            body = [[name, *(_gap(row.get(metric)) for metric in _COMPARED)] for name, row in cells.items()]
            lines += _table(["method", *(METRICS[metric] for metric in _COMPARED)], body)
    return "\n".join([*lines, *found_lines(out)]) + "\n"


def _summary_lines(cells: dict[str, dict[str, dict[str, Any]]]) -> list[list[str]]:
    return [
        [name, str(max(row["n"] for row in found.values())), *(_value(found.get(metric)) for metric in METRICS)]
        for name, found in cells.items()
    ]


def _skew_line(runs: pd.DataFrame) -> str:
    means = {name: pd.to_numeric(runs[name]).mean() for name in ("label_skew", "total_variation", "findings_a_site")}
    sizes = pd.to_numeric(runs["smallest"]).min(), pd.to_numeric(runs["largest"]).max()
    told = (
        (means["label_skew"], "label prevalence differs from all sites' by {:.3f} on average"),
        (means["total_variation"], "total variation {:.2f}"),
        (means["findings_a_site"], "{:.1f} findings with a positive a site"),
    )
    # One site, or one that knows no label, has nothing to differ from.
    parts = [words.format(value) for value, words in told if not np.isnan(value)]
    return f"Skew over sites and seeds: {', '.join(parts)}, {sizes[0]:.0f} to {sizes[1]:.0f} training images a site."


def _table(header: list[str], body: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body)]


def _latex(summary: list[dict[str, Any]], gaps: list[dict[str, Any]], baseline: str) -> str:
    lines = ["% Needs the package booktabs."]
    for dataset, partition in _places(summary):
        lines += [rf"% {dataset}, {partition}", rf"\begin{{tabular}}{{l{'r' * (len(METRICS) + 1)}}}", r"\toprule"]
        lines += [" & ".join(["method", "seeds", *METRICS.values()]) + r" \\", r"\midrule"]
        for name, found in _cells(summary, dataset, partition).items():
            cells = [_value(found.get(metric), r"\textbf{{{}}}").replace("±", r"$\pm$") for metric in METRICS]
            lines.append(" & ".join([_escaped(name), str(max(row["n"] for row in found.values())), *cells]) + r" \\")
        cells_of = _cells(gaps, dataset, partition)
        if cells_of:
            lines += [r"\midrule", rf"\multicolumn{{{len(METRICS) + 2}}}{{l}}{{minus {_escaped(baseline)}, points}} \\"]
            lines += [
                " & ".join([_escaped(name), "", *(_gap(row.get(metric)) for metric in METRICS)]) + r" \\"
                for name, row in cells_of.items()
            ]
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("_", r"\_")
