"""Small multiples, one finding a panel: ROC, precision and recall, reliability; and what became of updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nc_medfl.report.curves import EVERYWHERE, Curve, Curves
from nc_medfl.report.svg import ACCENT, DASHES, INK, MARKERS, MUTED, SERIES, draw

_COLUMNS = 5


def _panels(name: str, alt: str, titles: Sequence[str], paint_one: Callable[[Axes, str], None]) -> Markup:
    rows = -(-len(titles) // _COLUMNS)

    def paint(figure: Figure) -> None:
        places = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
        for place, title in zip(places, titles, strict=False):
            paint_one(place, title)
            place.set_title(title if len(title) < 22 else f"{title[:20]}…")
            place.set_xlim(-0.03, 1.03)
            place.set_ylim(-0.03, 1.03)
            place.set_xticks([0, 0.5, 1])
            place.set_yticks([0, 0.5, 1])
            place.grid()
            place.tick_params(length=0)
        for place in places[len(titles) :]:
            place.set_axis_off()
        # Labels are taken from the panel that has the most lines: a site may lack a finding.
        found = max((place.get_legend_handles_labels() for place in places), key=lambda pair: len(pair[1]))
        if found[1]:
            figure.legend(*found, loc="outside upper left", ncols=5, handlelength=2.6)

    return draw(name, alt, (10.6, 0.6 + 2.1 * rows), paint)


def _curves(curves: Curves, finding: str, axes: Axes, points: Callable[[Curve], tuple[np.ndarray, np.ndarray]]) -> None:
    sites = sorted({site for site, _ in curves if site != EVERYWHERE})
    few = len(sites) <= len(SERIES)
    for k, site in enumerate(sites):
        if (site, finding) in curves:
            style = (SERIES[k], DASHES[k % len(DASHES)]) if few else (MUTED, "-")
            label = site if few else ("sites" if k == 0 else None)
            axes.plot(
                *points(curves[site, finding]),
                color=style[0],
                linestyle=style[1],
                linewidth=1.0,
                alpha=0.8,
                label=label,
            )
    if (EVERYWHERE, finding) in curves:
        axes.plot(*points(curves[EVERYWHERE, finding]), color=INK, linewidth=2.0, label="all sites together")


def roc_plot(curves: Curves, findings: Sequence[str]) -> Markup:
    """Sensitivity against false alarms."""

    def paint(axes: Axes, finding: str) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        _curves(curves, finding, axes, lambda c: (np.r_[1.0, c.false_alarms, 0.0], np.r_[1.0, c.sensitivity, 0.0]))

    alt = "ROC curves: sensitivity (upwards) against 1 minus specificity, a panel for each finding."
    return _panels("roc", alt, findings, paint)


def pr_plot(curves: Curves, findings: Sequence[str]) -> Markup:
    """Precision against recall."""

    def paint(axes: Axes, finding: str) -> None:
        _curves(curves, finding, axes, lambda c: (c.sensitivity, c.ppv))

    alt = "Precision (PPV, upwards) against recall (sensitivity), a panel for each finding."
    return _panels("pr", alt, findings, paint)


def reliability_plot(name: str, points: Mapping[tuple[str, str], pd.DataFrame], findings: Sequence[str]) -> Markup:
    """Share of positives against the mean score, by finding and method of calibration."""
    methods = list(dict.fromkeys(method for _, method in points))

    def paint(axes: Axes, finding: str) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for k, method in enumerate(methods):
            part = points.get((finding, method))
            if part is not None and len(part):
                label = "as the model gives them" if method == "none" else f"after {method} scaling"
                style: dict[str, Any] = {"color": SERIES[k % 8], "marker": MARKERS[k % 8], "linestyle": DASHES[k % 4]}
                axes.plot(part["mean_score"], part["observed"], markersize=3.5, linewidth=1.1, label=label, **style)

    alt = "Share of images with the finding (upwards) against the mean score, a panel for each finding."
    return _panels(name, alt, findings, paint)


def updates_plot(updates: pd.DataFrame, sites: Sequence[str]) -> Markup:
    """Rounds from left to right, a row a site, a mark for each update that was not used."""
    lost = updates[updates["outcome"] != "accepted"]
    outcomes = sorted(lost["outcome"].unique())

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        place = {site: k for k, site in enumerate(sites)}
        for k in place.values():
            axes.axhline(k, color=MUTED, linewidth=0.5, alpha=0.5)
        for k, outcome in enumerate(outcomes):
            part = lost[(lost["outcome"] == outcome) & lost["site"].isin(list(place))]
            colour = ACCENT if len(outcomes) == 1 else SERIES[k % 8]
            axes.plot(
                part["round"], part["site"].map(place), linestyle="", marker=MARKERS[k % 8], color=colour, label=outcome
            )
        axes.set_yticks(range(len(sites)), list(sites))
        axes.set_ylim(len(sites) - 0.5, -0.5)
        axes.set_xlim(updates["round"].min() - 0.5, updates["round"].max() + 0.5)
        axes.set_xlabel("round")
        axes.tick_params(length=0, axis="y")
        figure.legend(loc="outside upper left", ncols=6)

    alt = f"{len(lost)} of {len(updates)} updates not used ({', '.join(outcomes)}), by site and round; listed below."
    return draw("updates", alt, (10.6, 1.0 + 0.25 * len(sites)), paint)
