"""The plots of a run: sites and findings with intervals, rounds, losses, collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from nc_medfl.report.svg import ACCENT, DASHES, INK, MARKERS, MUTED, SERIES, draw

#: A value, the lower and the upper end of its interval; NaN where there is none.
Estimate = tuple[float, float, float]


def _series(axes: Axes, lines: Mapping[str, pd.Series], mean: pd.Series | None, mean_label: str) -> None:
    """One line a site; told apart by colour, dash and marker up to eight, else all in one muted tone."""
    few = len(lines) <= len(SERIES)
    for k, (label, line) in enumerate(lines.items()):
        axes.plot(
            line.index,
            line.to_numpy(),
            color=SERIES[k] if few else MUTED,
            linestyle=DASHES[k % len(DASHES)] if few else "-",
            marker=MARKERS[k] if few and len(line) <= 30 else "",
            markersize=3.5,
            linewidth=1.2 if few else 0.8,
            alpha=1.0 if few else 0.55,
            label=label if few else (f"{len(lines)} sites" if k == 0 else None),
        )
    if mean is not None and len(mean):
        axes.plot(mean.index, mean.to_numpy(), color=INK, linewidth=2.4, label=mean_label, zorder=5)
    axes.grid(axis="y")
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.tick_params(length=0, axis="y")


def rounds_plot(lines: Mapping[str, pd.Series], mean: pd.Series, best_round: int | None) -> Markup:
    """Validation macro AUC of the global model, by site and round, with their mean and the chosen round."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        _series(axes, lines, mean, "mean over sites")
        if best_round is not None:
            axes.axvline(best_round, color=ACCENT, linewidth=1.2, linestyle=(0, (3, 2)), zorder=1)
            axes.annotate(
                f"chosen: round {best_round}",
                (best_round, 0.02),
                xycoords=axes.get_xaxis_transform(),
                xytext=(-5 if best_round > mean.index.max() / 2 else 5, 0),
                textcoords="offset points",
                ha="right" if best_round > mean.index.max() / 2 else "left",
                color=ACCENT,
                fontsize=8.5,
            )
        axes.set_ylabel("macro AUC on validation")
        figure.legend(loc="outside upper left", ncols=6, handlelength=2.6)

    last = f" It ends at {mean.iloc[-1]:.3f}." if len(mean) else ""
    alt = f"Lines of the validation macro AUC over rounds, one for each of {len(lines)} sites and their mean.{last}"
    return draw("rounds", alt, (10.6, 3.6), paint)


def losses_plot(losses: Mapping[str, Mapping[str, pd.Series]]) -> Markup:
    """Training loss and its parts, by site and round: small multiples."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(losses), squeeze=False)[0]
        for place, (metric, lines) in zip(axes, losses.items(), strict=True):
            mean = pd.concat(list(lines.values()), axis=1).mean(axis=1) if len(lines) > 1 else None
            _series(place, lines, mean, "mean over sites")
            place.set_title(metric)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=6, handlelength=2.6)

    alt = f"Lines over rounds, by site, of the training {', '.join(losses)}."
    return draw("losses", alt, (10.6, 2.7), paint)


def forest_plot(name: str, rows: Sequence[tuple[str, Estimate, bool]], label: str, alt: str) -> Markup:
    """Estimates with intervals, one a row; those marked as a summary stand out.

    Args:
        name: of the figure, for ids.
        rows: name, estimate and whether it is a summary, from top to bottom.
        label: of the axis.
        alt: what is drawn, in words.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, (_, (value, low, high), summary) in enumerate(rows):
            _interval(axes, place, (value, low, high), summary)
        _finish_rows(axes, [text for text, _, _ in rows], label)

    return draw(name, alt, (10.6, 0.9 + 0.3 * len(rows)), paint)


def findings_plot(rows: Sequence[tuple[str, Estimate]], by_site: Mapping[str, Sequence[float]], alt: str) -> Markup:
    """AUC of each finding with its interval, and the sites' own values as small marks.

    Args:
        rows: finding and estimate, from top to bottom.
        by_site: for each site, a value for each row, NaN where undefined.
        alt: what is drawn, in words.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        few = len(by_site) <= len(SERIES)
        for k, (site, values) in enumerate(by_site.items()):
            axes.plot(
                values,
                np.arange(len(rows)) + 0.22,
                linestyle="",
                marker=MARKERS[k] if few else "|",
                markersize=4.2,
                markerfacecolor="none",
                markeredgecolor=SERIES[k] if few else MUTED,
                label=site if few else (f"{len(by_site)} sites" if k == 0 else None),
            )
        for place, (_, estimate) in enumerate(rows):
            _interval(axes, place - 0.12, estimate, True)
        _finish_rows(axes, [text for text, _ in rows], "AUC on test")
        if by_site:
            figure.legend(loc="outside upper left", ncols=6, handletextpad=0.2)

    return draw("findings", alt, (10.6, 1.1 + 0.34 * len(rows)), paint)


def _interval(axes: Axes, place: float, estimate: Estimate, strong: bool) -> None:
    value, low, high = estimate
    colour = ACCENT if strong else INK
    if np.isnan(value):
        axes.text(0.5, place, "undefined", color=MUTED, va="center", transform=axes.get_yaxis_transform(), fontsize=8)
        return
    if not np.isnan(low):
        axes.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt", alpha=0.75)
    axes.plot([value], [place], marker="D" if strong else "o", color=colour, markersize=5.5, linestyle="")


def _finish_rows(axes: Axes, names: Sequence[str], label: str) -> None:
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(max(len(names), 1) - 0.5, -0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(max(min(low, 0.48), -0.02), min(max(high, 0.8), 1.02))
    axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    axes.annotate(
        "chance",
        (0.5, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(3, 2),
        textcoords="offset points",
        color=MUTED,
        fontsize=7.5,
    )
    axes.grid(axis="x")
    axes.set_xlabel(label)
    axes.tick_params(length=0, axis="y")
    axes.spines["left"].set_visible(False)


def collapse_plot(panels: Mapping[str, Mapping[str, pd.Series]], best_round: int | None) -> Markup:
    """The collapse metrics over rounds: one panel each.

    Args:
        panels: by title, lines by label; a panel of one or two lines is drawn strong, one of more (a line
            for each finding) muted with its median.
        best_round: marked in every panel.
    """

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for place, (title, lines) in zip(axes, panels.items(), strict=True):
            _panel(place, lines)
            place.set_title(title)
            if best_round is not None:
                place.axvline(best_round, color=ACCENT, linewidth=1, linestyle=(0, (3, 2)), zorder=1)

    alt = f"Lines over rounds of {', '.join(panels)}. The table below has the numbers of the chosen round."
    return draw("collapse", alt, (10.6, 2.6), paint)


def _panel(axes: Axes, lines: Mapping[str, pd.Series]) -> None:
    many = len(lines) > 2
    for k, (label, line) in enumerate(lines.items()):
        axes.plot(
            line.index,
            line.to_numpy(),
            color=MUTED if many else SERIES[k],
            alpha=0.5 if many else 1.0,
            linewidth=0.8 if many else 1.8,
            linestyle=DASHES[0] if many else DASHES[k],
            label=None if many else label,
        )
    values = pd.concat(list(lines.values()), axis=1)
    if many:
        median = values.median(axis=1)
        axes.plot(median.index, median.to_numpy(), color=INK, linewidth=2, label="median")
    if len(lines) > 1:
        axes.legend(loc="best", fontsize=7.5, handlelength=1.8)
    numbers = values.to_numpy(dtype=float)
    positive = numbers[np.isfinite(numbers)]
    if many and len(positive) and positive.min() > 0 and positive.max() > 20 * positive.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y")
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.tick_params(length=0, axis="y")
