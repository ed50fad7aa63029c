"""Tables of the page: what a cell shows, how it sorts, and the footnote that says why it is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.labels import NO_FINDING
from nc_medfl.partition.describe import label_skew, total_variation
from nc_medfl.report.reading import RunTables

UNDEFINED = "–"

#: With fewer positives or negatives than this an interval is rough.
ROUGH_BELOW = 50
NO_INTERVAL = "no interval: too few patients with or without the finding to resample"
ROUGH = f"rough interval: fewer than {ROUGH_BELOW} positives or negatives"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what it shows.
        sort: what it sorts by, a number as text; empty sorts last.
        extra: a second, quieter text, such as an interval.
        mark: the mark of its footnote.
        title: the footnote's text.
        shade: 0 to 1, the strength of its colour; None for none.
    """

    text: str
    sort: str = ""
    extra: str = ""
    mark: str = ""
    title: str = ""
    shade: float | None = None


@dataclass
class Table:
    """A table with a caption, a header for each column and for each row, and footnotes.

    Attributes:
        name: for ids.
        caption: one line.
        headers: of the columns, that of the row headers first.
        rows: cells, the row's header first.
        notes: footnotes, by text; the mark is their place.
    """

    name: str
    caption: str
    headers: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def mark(self, text: str) -> str:
        """The mark of a footnote, which is added where it is new."""
        return self.notes.setdefault(text, str(len(self.notes) + 1)) if text else ""

    def undefined(self, reason: str) -> Cell:
        """An empty cell and its reason."""
        reason = reason or "not measured"
        return Cell(UNDEFINED, mark=self.mark(reason), title=reason)

    def number(
        self, row: dict[str, Any] | None, *, digits: int = 3, interval: bool = False, shade: bool = False
    ) -> Cell:
        """A cell of a row of the metrics.

        Args:
            row: of ``metrics.csv``; None where it has none.
            digits: after the point.
            interval: whether its interval stands beside it.
            shade: whether to colour it, from 0.5 (none) to 1.
        """
        if row is None or np.isnan(row["value"]):
            return self.undefined(row["reason"] if row else "")
        value = float(row["value"])
        extra, note = _interval(row, digits) if interval else ("", "")
        tone = float(np.clip((value - 0.5) * 2, 0, 1)) if shade else None
        return Cell(decimal(value, digits), f"{value:.6g}", extra, self.mark(note), note, tone)


def decimal(value: float, digits: int = 3) -> str:
    """A number with a fixed count of digits and a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def count(value: float) -> Cell:
    """A cell of a whole number."""
    return Cell(f"{int(value):,}", str(int(value)))


def _interval(row: dict[str, Any], digits: int) -> tuple[str, str]:
    """The interval of a row as text, and a remark about it."""
    if np.isnan(row["low"]):
        parts = [part for part in str(row["reason"]).split("; ") if part.startswith("no interval")]
        return "", NO_INTERVAL if parts else ""
    text = f"{decimal(row['low'], digits)}–{decimal(row['high'], digits)}"
    few = min(row["n_positive"], row["n_annotated"] - row["n_positive"]) < ROUGH_BELOW
    return text, ROUGH if few else ""


def site_name(site: str) -> str:
    """How a site is called on the page."""
    return {"pooled": "All patients pooled", "all": "Mean over sites"}.get(site, site)


def sites_table(data: RunTables) -> Table:
    """The sites side by side: one row a site, then their mean and all patients pooled."""
    headers = ("Site", "Macro AUC (95%)", "Findings", "AP", "F1", "F1 floor", "Sensitivity", "Specificity")
    table = Table("sites", "Test metrics, mean over findings (macro)", (*headers, "Micro AUC", "Brier", "ECE"))
    present = set(data.metrics["site"])
    for site in (*data.sites, *(name for name in ("all", "pooled") if name in present)):
        cells = [
            Cell(site_name(site)),
            table.number(data.cell(site, "macro", "auc"), interval=True),
            _coverage(data, site),
        ]
        macro = ("average_precision", "f1", "f1_all_positive", "sensitivity", "specificity")
        cells += [table.number(data.cell(site, "macro", metric)) for metric in macro]
        cells.append(table.number(data.cell(site, "micro", "auc")))
        cells += [table.number(data.cell(site, "macro", metric)) for metric in ("brier", "ece")]
        table.rows.append(cells)
    return table


def _coverage(data: RunTables, site: str) -> Cell:
    defined = data.n_defined(site, "auc")
    return Cell(f"{defined} of {len(data.findings)}", str(defined))


def findings_table(data: RunTables, site: str) -> Table:
    """All findings at one site, or over all patients: one row a finding."""
    headers = ("Finding", "Positive", "Annotated", "AUC (95%)", "AP (95%)", "F1", "F1 floor")
    table = Table(
        f"findings-{data.sites.index(site) if site in data.sites else site}",
        f"{site_name(site)}: test metrics by finding",
        (*headers, "Sensitivity", "Specificity", "PPV", "NPV", "Threshold"),
    )
    for finding in data.findings:
        row = data.cell(site, finding, "auc")
        counts = [count(row[name]) if row else table.undefined("") for name in ("n_positive", "n_annotated")]
        cells = [Cell(finding), *counts]
        cells += [table.number(data.cell(site, finding, name), interval=True) for name in ("auc", "average_precision")]
        others = ("f1", "f1_all_positive", "sensitivity", "specificity", "ppv", "npv", "threshold")
        cells += [table.number(data.cell(site, finding, name)) for name in others]
        table.rows.append(cells)
    return table


def auc_by_site_table(data: RunTables) -> Table:
    """AUC of each finding at each site, shaded."""
    columns = [*data.sites, data.whole] if data.whole in set(data.metrics["site"]) else data.sites
    table = Table(
        "auc-by-site",
        "Test AUC (95% interval) by finding and site; the darker, the higher",
        ("Finding", *(site_name(site) for site in columns)),
    )
    for finding in (*data.findings, "macro"):
        cells = [table.number(data.cell(site, finding, "auc"), interval=True, shade=True) for site in columns]
        table.rows.append([Cell("Mean over findings" if finding == "macro" else finding), *cells])
    return table


@dataclass(frozen=True)
class LabelSkew:
    """What each site holds: counts, prevalence, and the distance of its labels from all sites together."""

    positives: Table
    prevalence: Table
    distance: Table


def label_tables(data: RunTables) -> LabelSkew | None:
    """Tables of the label statistics, over all splits; None without them."""
    if data.labels is None or data.labels.empty:
        return None
    counts = data.labels.groupby(["site", "finding"], sort=False)[["n_positive", "n_negative"]].sum()
    positive = counts["n_positive"].unstack("site").astype(float)
    known = positive + counts["n_negative"].unstack("site")
    sites = [site for site in data.sites if site in positive.columns]
    findings = [name for name in (*data.findings, NO_FINDING) if name in positive.index]
    positive, known = positive.loc[findings, sites], known.loc[findings, sites]
    local = positive / known.where(known > 0)
    pooled = positive.sum(axis=1) / known.sum(axis=1).where(known.sum(axis=1) > 0)
    return LabelSkew(
        _positives_table(positive, known),
        _prevalence_table(local, pooled),
        _distance_table(data, data.labels, positive, local, pooled),
    )


def _positives_table(positive: pd.DataFrame, known: pd.DataFrame) -> Table:
    table = Table(
        "positives",
        "Images positive for each finding, all splits; shaded within each row",
        ("Finding", *positive.columns, "All sites"),
    )
    for finding, row in positive.iterrows():
        cells = [Cell(str(finding))]
        most = max(float(row.max()), 1.0)
        for value, annotated in zip(row, known.loc[str(finding)], strict=True):
            if annotated == 0:
                cells.append(table.undefined("nobody reads for it here"))
            else:
                cells.append(Cell(f"{int(value):,}", str(int(value)), shade=float(value) / most))
        table.rows.append([*cells, count(float(row.sum()))])
    return table


def _prevalence_table(local: pd.DataFrame, pooled: pd.Series) -> Table:
    table = Table(
        "prevalence",
        "Prevalence in % of annotated images, all splits; shaded within each row",
        ("Finding", *local.columns, "All sites"),
    )
    for (finding, row), everywhere in zip(local.iterrows(), pooled, strict=True):
        most = float(row.max())
        cells = [Cell(str(finding))]
        for value in (*row, everywhere):
            if np.isnan(value):
                cells.append(table.undefined("nobody reads for it here"))
            else:
                shade = float(value) / most if most > 0 else 0.0
                cells.append(Cell(f"{100 * value:.1f}", f"{value:.6g}", shade=shade))
        cells[-1] = Cell(cells[-1].text, cells[-1].sort)
        table.rows.append(cells)
    return table


def _distance_table(
    data: RunTables, labels: pd.DataFrame, positive: pd.DataFrame, local: pd.DataFrame, pooled: pd.Series
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
        cells += [count(here["n_images"].get(split, 0)) for split in ("train", "val", "test")]
        cells.append(count(here["n_patients"].sum()))
        mine, all_sites = local.loc[findings, site], pooled[findings]
        if (mine.notna() & all_sites.notna()).any():
            distance = label_skew(mine, all_sites)
            cells.append(Cell(decimal(distance), f"{distance:.6g}"))
        else:
            cells.append(table.undefined("no finding is annotated here"))
        mix = positive[site]
        if mix.sum() > 0:
            distance = total_variation(mix, positive.sum(axis=1))
            cells.append(Cell(decimal(distance), f"{distance:.6g}"))
        else:
            cells.append(table.undefined("no positive here"))
        table.rows.append(cells)
    return table


def rounds_table(mean: pd.Series, lines: dict[str, pd.Series]) -> Table:
    """The numbers behind the plot of rounds."""
    table = Table("rounds-numbers", "Macro AUC on validation, by round", ("Round", *lines, "Mean over sites"))
    rounds = sorted(set(mean.index).union(*(set(line.index) for line in lines.values())))
    for number in rounds:
        cells = [Cell(str(int(number)), str(int(number)))]
        for line in (*lines.values(), mean):
            value = float(line.get(number, np.nan))
            cells.append(table.undefined("") if np.isnan(value) else Cell(decimal(value), f"{value:.6g}"))
        table.rows.append(cells)
    return table


def collapse_table(collapse: pd.DataFrame, findings: Sequence[str], at_round: int) -> Table:
    """Coverage and NCpn of each finding at one round."""
    names = {"n_sites": "Sites with a positive", "n_positive": "Training positives", "ncpn": "NCpn"}
    table = Table("collapse-numbers", f"By finding, at round {at_round}", ("Finding", *names.values()))
    here = collapse[collapse["round"] == at_round]
    cells = {(r["finding"], r["metric"]): r for r in here.to_dict("records")}
    for finding in findings:
        row = [Cell(finding)]
        for metric in names:
            item = cells.get((finding, metric))
            if item is None or np.isnan(item["value"]):
                row.append(table.undefined(item["reason"] if item else ""))
            elif metric == "ncpn":
                row.append(Cell(f"{item['value']:.3g}", f"{item['value']:.6g}"))
            else:
                row.append(count(item["value"]))
        table.rows.append(row)
    return table


def refused_table(updates: pd.DataFrame) -> Table:
    """Updates that the server did not take or did not get, each with its reason."""
    table = Table("updates-refused", "Updates that were not used, and why", ("Round", "Site", "Outcome", "Reason"))
    for row in updates[updates["outcome"] != "accepted"].to_dict("records"):
        number = str(int(row["round"]))
        table.rows.append([Cell(number, number), Cell(row["site"]), Cell(row["outcome"]), Cell(row["reason"])])
    return table


def privacy_table(privacy: pd.DataFrame) -> Table | None:
    """What each site's own settings protect, and the privacy spent; None where no site has such settings."""
    if privacy.empty:
        return None
    last = privacy.sort_values("round", kind="stable").drop_duplicates(["site", "quantity"], keep="last")
    found = {(row["site"], row["quantity"]): row for row in last.to_dict("records")}
    headers = ("Site", "Model", "Class statistics", "Change at most", "Epsilon", "Epsilon, all its jobs", "Delta")
    table = Table("privacy", "Privacy by site: what carries a guarantee, and how much of it is spent", headers)
    for site in sorted({str(site) for site in last["site"]}):
        row = [Cell(site)]
        for quantity in ("model", "class_statistics"):
            item = found.get((site, quantity))
            row.append(Cell("protected" if item is not None and item["value"] == 1 else "not protected"))
        for quantity in ("update_clip", "epsilon", "epsilon_all_jobs", "delta"):
            item = found.get((site, quantity))
            if item is None or np.isnan(item["value"]):
                row.append(table.undefined(str(item["reason"]) if item else "not set at the site"))
            else:
                row.append(Cell(f"{item['value']:.3g}", f"{item['value']:.6g}"))
        table.rows.append(row)
    return table
