"""The plots of a study as SVG and PNG, each with the table that it draws beside it.

AUC on validation by round, AUC of each class, collapse by round, and AUC against how uneven the sites are. Points are
means over seeds, bars and bands one standard deviation. Same numbers, same bytes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nc_medfl.benchmark.plot_data import COLLAPSE, PlotData, plot_data
from nc_medfl.benchmark.results import CHOSEN, RESULTS, RUNS_CSV, read_table
from nc_medfl.data.store import write_atomic

PLOTS = "plots"

#: Okabe and Ito's colours, told apart with any kind of colour vision; line and mark tell more than eight methods apart.
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a00")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = "osD^vPXh"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "nc_medfl",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def write_plots(out: Path, methods: Sequence[str]) -> list[Path]:
    """Draw all plots that a study's tables have numbers for, below ``plots``.

    Args:
        out: the study, with its collected tables.
        methods: in the order of the matrix; a method has the same colour in every plot.

    Returns:
        The SVG files; a PNG and a CSV of the same name lie beside each. Files of other plots are removed.
    """
    results, chosen, runs = (read_table(out / name) for name in (RESULTS, CHOSEN, RUNS_CSV))
    found = plot_data(results, chosen, runs, methods)
    folder = out / PLOTS
    folder.mkdir(parents=True, exist_ok=True)
    style = {name: _style(number) for number, name in enumerate(methods)}
    written = []
    for one in found:
        text = one.table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_atomic(folder / f"{one.stem}.csv", text.encode())
        for kind, content in _drawn(one, style).items():
            write_atomic(folder / f"{one.stem}.{kind}", content)
        written.append(folder / f"{one.stem}.svg")
    kept = {path.stem for path in written}
    for path in folder.iterdir():
        if path.suffix in (".svg", ".png", ".csv") and path.stem not in kept:
            path.unlink()
    return written


def _style(number: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number // len(_COLOURS) % len(_DASHES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def _drawn(one: PlotData, style: dict[str, dict[str, Any]]) -> dict[str, bytes]:
    paint, size = _PAINTERS[one.kind]
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Names in scripts that the drawing font lacks are shown in the reader's own font.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=size(one.table), layout="constrained")
        paint(figure, one.table, style)
        figure.suptitle(
            ", ".join(part for part in (one.dataset, one.partition) if part), fontsize=10, x=0.01, ha="left"
        )
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            handles |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", handlelength=3)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", metadata={"Software": None})
    return {"svg": svg.getvalue(), "png": png.getvalue()}


def _line(axes: Axes, rows: pd.DataFrame, x: str, style: dict[str, Any], name: str) -> None:
    axes.plot(rows[x], rows["mean"], label=name, **style)
    if rows["sd"].notna().any():
        sd = rows["sd"].fillna(0)
        axes.fill_between(rows[x], rows["mean"] - sd, rows["mean"] + sd, color=style["color"], alpha=0.12, linewidth=0)


def _of(table: pd.DataFrame, style: dict[str, dict[str, Any]]) -> list[tuple[str, pd.DataFrame]]:
    """Rows by method, in the order of the matrix."""
    return [(name, table[table["method"] == name]) for name in style if (table["method"] == name).any()]


def _paint_curves(figure: Figure, table: pd.DataFrame, style: dict[str, dict[str, Any]]) -> None:
    axes = figure.add_subplot()
    for name, rows in _of(table, style):
        _line(axes, rows, "round", style[name], name)
    axes.set(xlabel="round", ylabel="macro AUC on validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _paint_classes(figure: Figure, table: pd.DataFrame, style: dict[str, dict[str, Any]]) -> None:
    axes = figure.add_subplot()
    findings = list(dict.fromkeys(table["finding"]))
    groups = _of(table, style)
    for number, (name, rows) in enumerate(groups):
        offset = 0.0 if len(groups) == 1 else 0.7 * (number / (len(groups) - 1) - 0.5)
        place = np.array([findings.index(finding) for finding in rows["finding"]]) + offset
        look = {**style[name], "linestyle": ""}
        axes.errorbar(rows["mean"], place, xerr=rows["sd"].fillna(0), elinewidth=0.8, label=name, **look)
    axes.set_yticks(range(len(findings)), findings)
    axes.set_ylim(len(findings) - 0.5, -0.5)
    axes.set(xlabel="AUC on test")


def _paint_collapse(figure: Figure, table: pd.DataFrame, style: dict[str, dict[str, Any]]) -> None:
    places = figure.subplots(2, 2, sharex=True).ravel()
    for axes, (metric, title) in zip(places, COLLAPSE.items(), strict=True):
        for name, rows in _of(table[table["metric"] == metric], style):
            _line(axes, rows, "round", style[name], name)
        axes.set_title(title)
    for axes in places[2:]:
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _paint_skew(figure: Figure, table: pd.DataFrame, style: dict[str, dict[str, Any]]) -> None:
    axes = figure.add_subplot()
    for name, rows in _of(table, style):
        axes.errorbar(
            rows["label_skew"], rows["mean"], yerr=rows["sd"].fillna(0), elinewidth=0.8, label=name, **style[name]
        )
    marks = table.drop_duplicates("partition")
    for skew, partition in zip(marks["label_skew"], marks["partition"], strict=True):
        axes.annotate(
            partition,
            (skew, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-2, 3),
            textcoords="offset points",
            rotation=30,
            fontsize=7,
            color="#555555",
        )
        axes.axvline(skew, color="#bbbbbb", linewidth=0.6, zorder=0)
    axes.set(xlabel="mean difference of a site's prevalences from all sites'", ylabel="macro AUC on test")


_Size = Callable[[pd.DataFrame], tuple[float, float]]


def _fixed(width: float, height: float) -> _Size:
    return lambda table: (width, max(height, 1.0 + 0.17 * table["method"].nunique()))


def _by_class(table: pd.DataFrame) -> tuple[float, float]:
    methods = table["method"].nunique()
    return 8.6, 1.2 + table["finding"].nunique() * max(0.3, 0.075 * methods)


_PAINTERS: dict[str, tuple[Callable[[Figure, pd.DataFrame, dict[str, dict[str, Any]]], None], _Size]] = {
    "curves": (_paint_curves, _fixed(8.6, 4.0)),
    "classes": (_paint_classes, _by_class),
    "collapse": (_paint_collapse, _fixed(9.6, 5.4)),
    "skew": (_paint_skew, _fixed(8.6, 4.0)),
}
