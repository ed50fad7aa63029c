"""A picture of what each site holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from nc_medfl.data.manifest import SPLITS
from nc_medfl.partition.describe import SiteDescription

_SPLIT_COLOURS = ("#1f5a99", "#6fa8dc", "#c9ddf2")
_SKEW_COLOURS = ("#b5532a", "#e8a87c")


def draw_description(description: SiteDescription, path: Path, *, title: str) -> None:
    """Write a PNG: positives and prevalence by site and finding, images by split, distance of the labels.

    Args:
        description: of the sites.
        path: of the PNG; same description, same bytes.
        title: stands above.
    """
    sites, columns = len(description.sites), len(description.findings) + 1
    width = max(11.0, 4.0 + 0.62 * columns)  # the legends below need eleven inches
    heat = 0.9 + 0.36 * sites
    figure = Figure(figsize=(width, 2 * (heat + 1.6) + 0.5 * sites + 1.8), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, height_ratios=(heat + 1.6, heat + 1.6, 0.5 * sites + 1.2))
    figure.suptitle(title, fontsize=13)
    positives = description.positives()
    _heat_map(
        figure.add_subplot(grid[0, :]), positives, positives, "Images positive for each finding", "{:.0f}", log=True
    )
    percent = description.prevalence() * 100
    # The colour is by column, or the common findings would hide the skew of the rare ones.
    relative = percent / percent.max().where(percent.max() > 0)
    _heat_map(
        figure.add_subplot(grid[1, :]),
        percent,
        relative,
        "Prevalence in % of annotated images (shade: relative to the site with most)",
        "{:.1f}",
        log=False,
    )
    _split_bars(figure.add_subplot(grid[2, 0]), description.sites)
    _skew_bars(figure.add_subplot(grid[2, 1]), description.sites)
    # No software version or date in the file: same description, same bytes.
    figure.savefig(path, format="png", metadata={"Software": None})


def _heat_map(axes: Axes, values: pd.DataFrame, shade: pd.DataFrame, title: str, style: str, *, log: bool) -> None:
    colours = np.ma.masked_invalid(shade.to_numpy(dtype=float))
    if log:
        colours = np.ma.masked_less_equal(colours, 0)
    norm = LogNorm(vmin=0.7, vmax=max(float(shade.max().max()), 2.0)) if log else None
    image = axes.imshow(
        colours, cmap="Blues", norm=norm, aspect="auto", vmin=None if log else 0, vmax=None if log else 1
    )
    for (row, column), value in np.ndenumerate(values.to_numpy(dtype=float)):
        dark = bool(np.ma.filled(image.norm(colours[row : row + 1, column]), 0.0)[0] > 0.6)
        text = "?" if np.isnan(value) else "–" if value == 0 else style.format(value)
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "#333333")
    axes.set_xticks(range(values.shape[1]), [name.replace("_", " ") for name in values.columns], fontsize=8)
    axes.set_yticks(range(values.shape[0]), list(values.index), fontsize=9)
    for label in axes.get_xticklabels():
        label.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _split_bars(axes: Axes, sites: pd.DataFrame) -> None:
    left = np.zeros(len(sites))
    for split, colour in zip(SPLITS, _SPLIT_COLOURS, strict=True):
        axes.barh(sites["site"], sites[split], left=left, color=colour, label=split)
        left += sites[split].to_numpy(dtype=float)
    for row, (images, patients) in enumerate(zip(sites["n_images"], sites["n_patients"], strict=True)):
        axes.text(left[row], row, f"  {images:,} of {patients:,} patients", va="center", fontsize=8)
    axes.set_xlim(0, max(left.max(), 1) * 1.5)
    _finish(axes, "Images")


def _skew_bars(axes: Axes, sites: pd.DataFrame) -> None:
    place = np.arange(len(sites))
    bars = (("total_variation", "mix of labels (total variation)"), ("label_skew", "prevalence (mean difference)"))
    for offset, colour, (column, label) in zip((-0.2, 0.2), _SKEW_COLOURS, bars, strict=True):
        values = sites[column].to_numpy(dtype=float)
        axes.barh(place + offset, np.nan_to_num(values), height=0.38, color=colour, label=label)
        for row, value in enumerate(values):
            text = "undefined" if np.isnan(value) else f"{value:.3f}"
            axes.text(np.nan_to_num(value), row + offset, f" {text}", va="center", fontsize=8)
    axes.set_yticks(place, list(sites["site"]))
    largest = np.nan_to_num(sites[[name for name, _ in bars]].to_numpy(dtype=float)).max()
    axes.set_xlim(0, max(largest, 0.01) * 1.25)
    _finish(axes, "Distance of a site's labels from all sites together")


def _finish(axes: Axes, title: str) -> None:
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, loc="left", pad=22)
    axes.legend(fontsize=8, ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.1)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
