"""Label skew: what each site holds, and how far that is from all sites together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from nc_medfl.labels import NO_FINDING
from nc_medfl.partition.describe import label_skew, total_variation
from nc_medfl.report.audience import shown_counts
from nc_medfl.report.cells import Cell, Table, count, decimal, small
from nc_medfl.report.reading import RunTables


@dataclass(frozen=True)
class LabelSkew:
    """What each site holds: counts, prevalence, and the distance of its labels from all sites together."""

    positives: Table
    prevalence: Table
    distance: Table | None


def label_tables(data: RunTables) -> LabelSkew | None:
    """Tables of the label statistics, over all splits; None without them."""
    if data.labels is None or data.labels.empty:
        return None
    counts = data.labels.groupby(["site", "finding"], sort=False)[["n_positive", "n_negative"]].sum(min_count=1)
    positive = counts["n_positive"].unstack("site").astype(float)
    known = positive + counts["n_negative"].unstack("site")
    sites = [site for site in data.sites if site in positive.columns]
    findings = [name for name in (*data.findings, NO_FINDING) if name in positive.index]
    positive, known = positive.loc[findings, sites], known.loc[findings, sites]
    everywhere = pd.DataFrame({"positive": positive.sum(axis=1), "known": known.sum(axis=1)})
    if data.everywhere is not None:
        everywhere["positive"] = data.everywhere["n_positive"]
        everywhere["known"] = data.everywhere["n_positive"] + data.everywhere["n_negative"]
    local = positive / known.where(known > 0)
    pooled = everywhere["positive"] / everywhere["known"].where(everywhere["known"] > 0)
    shown = {name: shown_counts(row.where(known.loc[name] > 0), data.minimum) for name, row in positive.iterrows()}
    told = pd.DataFrame([cells for cells, _ in shown.values()], index=positive.index, columns=positive.columns)
    safe = pd.Series({name: total for name, (_, total) in shown.items()})
    everywhere = everywhere.where(safe.notna(), axis=0)
    pooled = pooled.where(safe.notna())
    alone = data.everywhere is None and len(data.sites) < 2
    return LabelSkew(
        _positives_table(told, known, None if alone else everywhere["positive"], data.minimum),
        _prevalence_table(local, told, None if alone else pooled, data.minimum),
        None if alone else _distance_table(data, data.labels, positive, local, pooled, everywhere["positive"]),
    )


NOT_READ = "nobody reads for it here"
TELLS = "withheld: it would tell of a site"


def _positives_table(told: pd.DataFrame, known: pd.DataFrame, everywhere: pd.Series | None, minimum: int) -> Table:
    table = Table(
        "positives",
        "Images positive for each finding, all splits; shaded within each row",
        ("Finding", *map(str, told.columns), *(["All sites"] if everywhere is not None else [])),
    )
    for finding, row in told.iterrows():
        cells = [Cell(str(finding))]
        most = max(float(np.nan_to_num(row.to_numpy()).max()), 1.0)
        for value, annotated in zip(row, known.loc[str(finding)], strict=True):
            if not annotated > 0:
                cells.append(table.undefined(NOT_READ))
            elif np.isnan(value):
                cells.append(table.undefined(small(minimum)))
            else:
                cells.append(Cell(f"{int(value):,}", str(int(value)), shade=float(value) / most))
        if everywhere is not None:
            total = float(everywhere[str(finding)])
            cells.append(table.undefined(TELLS) if np.isnan(total) else count(total))
        table.rows.append(cells)
    return table


def _prevalence_table(local: pd.DataFrame, told: pd.DataFrame, pooled: pd.Series | None, minimum: int) -> Table:
    table = Table(
        "prevalence",
        "Prevalence in % of annotated images, all splits; shaded within each row",
        ("Finding", *map(str, local.columns), *(["All sites"] if pooled is not None else [])),
    )
    for finding, row in local.iterrows():
        shown = row.where(told.loc[str(finding)].notna())
        most = float(np.nan_to_num(shown.to_numpy()).max())
        cells = [Cell(str(finding))]
        for site, value in row.items():
            if np.isnan(value):
                cells.append(table.undefined(NOT_READ))
            elif np.isnan(shown[site]):
                cells.append(table.undefined(small(minimum)))
            else:
                shade = float(value) / most if most > 0 else 0.0
                cells.append(Cell(f"{100 * value:.1f}", f"{value:.6g}", shade=shade))
        if pooled is not None:
            whole = float(pooled[str(finding)])
            if np.isnan(whole):
                cells.append(table.undefined(TELLS if row.notna().any() else NOT_READ))
            else:
                cells.append(Cell(f"{100 * whole:.1f}", f"{whole:.6g}"))
        table.rows.append(cells)
    return table


def _distance_table(
    data: RunTables,
    labels: pd.DataFrame,
    positive: pd.DataFrame,
    local: pd.DataFrame,
    pooled: pd.Series,
    everywhere: pd.Series,
) -> Table:
    table = Table(
        "distance",
        "Distance of each site's labels from all sites together: 0 is the same",
        ("Site", "Train", "Validation", "Test", "Patients", "Prevalence difference", "Label mix difference"),
    )
    findings = [name for name in data.findings if name in positive.index]
    images = labels.drop_duplicates(["site", "split"]).set_index(["site", "split"])
    for site in positive.columns:
        here = images.loc[site]
        cells = [Cell(site)]
        numbers = [*(here["n_images"].get(split, 0) for split in ("train", "val", "test")), here["n_patients"].sum()]
        cells += [table.counted(n if n == 0 or n >= data.minimum else np.nan, data.minimum) for n in numbers]
        mine, all_sites = local.loc[findings, site], pooled[findings]
        if (mine.notna() & all_sites.notna()).any():
            distance = label_skew(mine, all_sites)
            cells.append(Cell(decimal(distance), f"{distance:.6g}"))
        else:
            cells.append(table.undefined("no finding is annotated here"))
        mix = positive[site]
        if mix.sum() > 0 and everywhere.loc[mix.index].notna().all():
            distance = total_variation(mix, everywhere.loc[mix.index])
            cells.append(Cell(decimal(distance), f"{distance:.6g}"))
        else:
            cells.append(table.undefined("no positive here, or not told"))
        table.rows.append(cells)
    return table
