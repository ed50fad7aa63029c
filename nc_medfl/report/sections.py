"""Sections that follow from an evaluation's further tables: curves, reliability, thresholds, fairness, sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nc_medfl.report import curve_plots, plots, tables
from nc_medfl.report.cells import Cell, Table, count, decimal
from nc_medfl.report.curves import EVERYWHERE, THRESHOLDS, curves_of, slider_data
from nc_medfl.report.reading import RunTables

#: Fewest images in a group of a reliability curve of several sites.
_GROUP = 50
_LACKS = {
    "sensitivity": "no positive in test",
    "specificity": "no negative in test",
    "ppv": "no image is called positive at this threshold",
    "npv": "no image is called negative at this threshold",
}
_BIASED = "the interval is biased: drawing patients again adds to this error"
#: So many groups fit into one plot; of more, those of all patients are drawn.
_FEW_GROUPS = 16
_RULES = {
    "youden": "Youden (sensitivity + specificity)",
    "sensitivity": "target sensitivity",
    "ppv": "target PPV",
    "f1": "largest F1",
    "fixed": "fixed",
}


def curves(data: RunTables) -> dict[str, Any] | None:
    """ROC, precision and recall, and what the slider needs; None without histograms."""
    table = data.extra.get("score_histograms")
    if table is None or table.empty:
        return None
    found = curves_of(table, data.sites, together=len(data.sites) > 1)
    if not found:
        return None
    sites = [EVERYWHERE, *data.sites]
    chosen = {
        (site, finding): value
        for site in sites
        for finding in data.findings
        if (value := data.value(site or data.whole, finding, "threshold")) == value
    }
    named = [name for name in data.findings if any((site, name) in found for site in sites)]
    return {
        "roc": curve_plots.roc_plot(found, named),
        "pr": curve_plots.pr_plot(found, named),
        "table": _curve_table(found, named),
        "slider": slider_data(found, data.findings, sites, chosen),
        "left_out": [name for name in data.findings if name not in named],
    }


def _curve_table(found: dict[Any, Any], findings: list[str]) -> Table:
    headers = ("Finding", "Site", "Threshold", "Sensitivity", "Specificity", "PPV")
    table = Table("curves", "Points of the curves", headers)
    sites = list(dict.fromkeys(site for site, _ in found))
    shown = [EVERYWHERE] if EVERYWHERE in sites else sites
    for finding in findings:
        for site in shown:
            curve = found.get((site, finding))
            if curve is None:
                continue
            for k in range(10, len(THRESHOLDS) - 10, 8):
                numbers = (THRESHOLDS[k], curve.sensitivity[k], 1 - curve.false_alarms[k], curve.ppv[k])
                cells = [number(table, float(value), "no alarm at this threshold") for value in numbers]
                table.rows.append([Cell(finding), Cell(site or "All sites together"), *cells])
    return table


def number(table: Table, value: float, reason: str = "", extra: str = "", note: str = "") -> Cell:
    """A cell of three digits, or why there is none."""
    if np.isnan(value):
        return table.undefined(reason)
    return Cell(decimal(value), f"{value:.6g}", extra, table.mark(note), note)


def reliability(data: RunTables) -> dict[str, Any] | None:
    """Scores against shares of positives, and the errors before and after scaling; None without the tables."""
    table = data.extra.get("reliability")
    if table is None or table.empty:
        return None
    points = {}
    for (finding, method), part in table.groupby(["finding", "method"], sort=False):
        own = part[part["site"].isin(data.sites)]
        points[str(finding), str(method)] = _joined(own, data.minimum)
    points = {key: part for key, part in points.items() if len(part)}
    named = [name for name in data.findings if any((name, method) in points for method in ("none", "platt"))]
    if not named:
        return None
    shown = Table("reliability", "Points of the plot", ("Finding", "Scaling", "Images", "Mean score", "Positive"))
    for (finding, method), part in points.items():
        for row in part.to_dict("records"):
            cells = [number(shown, row["mean_score"]), number(shown, row["observed"])]
            shown.rows.append([Cell(finding), Cell(method), count(row["n"]), *cells])
    return {
        "plot": curve_plots.reliability_plot("reliability-curves", points, named),
        "table": shown,
        "errors": _errors(data),
    }


def _joined(part: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """Neighbouring bins joined until each has enough images, and no few positives or negatives."""
    enough = _GROUP if minimum > 1 else 1
    rows: list[tuple[float, float, float]] = []
    n = positive = total = 0.0
    for row in part.sort_values("mean_score", kind="stable").to_dict("records"):
        n, positive = n + row["n"], positive + row["n_positive"]
        total += row["n"] * row["mean_score"]
        if n >= enough and not 0 < positive < minimum and not 0 < n - positive < minimum:
            rows.append((n, total / n, positive / n))
            n = positive = total = 0.0
    out: pd.DataFrame = pd.DataFrame(rows, columns=["n", "mean_score", "observed"])
    return out


def _errors(data: RunTables) -> Table | None:
    table = data.extra.get("calibration")
    if table is None:
        return None
    headers = ("Site", "Scaling", "Brier (95%)", "ECE (95%)")
    out = Table("calibration", "Errors on test before and after scaling, mean over findings", headers)
    for row in table[(table["finding"] == "macro") & table["site"].isin(data.sites)].to_dict("records"):
        cells = [
            number(
                out,
                row[f"test_{name}"],
                str(row["reason"]),
                interval(row, f"test_{name}_low", f"test_{name}_high"),
                "" if not row[f"test_{name}"] < row[f"test_{name}_low"] else _BIASED,
            )
            for name in ("brier", "ece")
        ]
        out.rows.append([Cell(row["site"]), Cell(row["method"]), *cells])
    return out


def interval(row: Mapping[Any, Any], low: str, high: str) -> str:
    """An interval as text; nothing where there is none."""
    ends = [float(row.get(name, np.nan)) for name in (low, high)]
    return "" if np.isnan(ends).any() else f"{decimal(ends[0])}–{decimal(ends[1])}"


@dataclass(frozen=True)
class ThresholdTables:
    """What thresholds cost: by the rule that the run's own numbers are measured under, and by every other."""

    used: Table | None
    others: Table | None


def thresholds(data: RunTables, site: str, name: str) -> ThresholdTables | None:
    """What each rule's threshold costs on test, at one site or over all patients; None without the table."""
    table = data.extra.get("thresholds")
    rows = table[table["site"] == site] if table is not None else pd.DataFrame()
    if len(rows) and data.minimum > 1 and (rows["scope"] == "site").any():
        # A site's own page has the federation's thresholds too; here they would be most of the page.
        rows = rows[rows["scope"] == "site"]
    if rows.empty:
        return None
    used = rows["rule"] == rule_of(data.run)
    if not used.any():
        return ThresholdTables(None, _costs(rows, site, name, ""))
    others = _costs(rows[~used], site, f"{name}-others", "other rules, ") if (~used).any() else None
    return ThresholdTables(_costs(rows[used], site, name, ""), others)


def rule_of(run: Mapping[str, Any]) -> str:
    """The rule of the run's own thresholds."""
    rule = ((run.get("settings") or {}).get("evaluation") or {}).get("threshold", "youden")
    return "fixed" if rule == "half" else str(rule)


def _costs(rows: pd.DataFrame, site: str, name: str, what: str) -> Table:
    headers = (
        "Finding",
        "Rule",
        "Chosen by",
        "Threshold",
        "Sensitivity (95%)",
        "Specificity (95%)",
        "PPV (95%)",
        "NPV",
    )
    out = Table(
        name, f"{tables.site_name(site)}: {what}thresholds chosen on validation, and what each costs on test", headers
    )
    for row in rows.to_dict("records"):
        rule = _RULES.get(row["rule"], row["rule"])
        if row["target"] == row["target"]:
            rule = f"{rule} {row['target']:g}"
        reason = str(row.get("reason", ""))
        cells = [number(out, row["threshold"], reason)]
        for metric in ("sensitivity", "specificity", "ppv"):
            ends = interval(row, f"test_{metric}_low", f"test_{metric}_high")
            cells.append(number(out, row[f"test_{metric}"], reason or _LACKS[metric], ends))
        cells.append(number(out, row["test_npv"], reason or _LACKS["npv"]))
        out.rows.append([Cell(row["finding"]), Cell(rule), Cell(row["scope"]), *cells])
    return out


def fairness(data: RunTables) -> dict[str, Any] | None:
    """Groups beside each other, worst group and gap; None where nothing is known of patients."""
    table = data.extra.get("fairness", pd.DataFrame())
    macro = data.groups
    if len(macro):
        macro = macro[(macro["finding"] == "macro") & (macro["metric"] == "auc")]
    if table.empty and macro.empty:
        return None
    groups, plot = _groups(data, macro) if len(macro) else (None, None)
    return {"plot": plot, "groups": groups, "gaps": _gaps(table) if len(table) else None}


def _groups(data: RunTables, macro: pd.DataFrame) -> tuple[Table, Any]:
    shown = Table("groups", "Test macro AUC of groups of patients", ("Site", "Group", "Macro AUC (95%)"))
    at = data.whole if (macro["site"] == data.whole).any() else data.sites[0]
    rows = []
    for row in macro.to_dict("records"):
        named = {str(key): value for key, value in row.items()}
        site = tables.site_name(row["site"])
        shown.rows.append([Cell(site), Cell(row["group"]), shown.number(named, interval=True)])
        if row["value"] == row["value"] and (row["site"] == at or len(macro) <= _FEW_GROUPS):
            rows.append((f"{site}: {row['group']}", (row["value"], row["low"], row["high"]), False))
    alt = "Test macro AUC of groups of patients with 95% intervals; the table below has the numbers."
    return shown, plots.forest_plot("fairness-forest", rows, "macro AUC on test, with 95% interval", alt)


def _gaps(table: pd.DataFrame) -> Table:
    headers = ("Where", "Compared by", "Metric", "Worst", "its value", "Best", "its value ", "Gap (95%)")
    out = Table("gaps", "Worst and best, mean over findings", headers)
    chosen = table[(table["finding"] == "macro") & table["metric"].isin(["auc", "sensitivity", "specificity", "ece"])]
    for row in chosen.to_dict("records"):
        reason = str(row["reason"])
        worst = number(out, row["worst"], reason, interval(row, "worst_low", "worst_high"))
        best = number(out, row["best"], reason, interval(row, "best_low", "best_high"))
        gap = number(out, row["gap"], reason, interval(row, "gap_low", "gap_high"))
        where = "Between sites" if row["attribute"] == "site" else tables.site_name(row["site"])
        names = [Cell(where), Cell(row["attribute"]), Cell(row["metric"])]
        out.rows.append([*names, Cell(row["worst_group"]), worst, Cell(row["best_group"]), best, gap])
    return out


def federation(data: RunTables) -> Table | None:
    """AUC, Brier score and calibration error over all sites' patients, with bounds; None where no site sent counts."""
    table = data.extra.get("federation", pd.DataFrame())
    if table.empty or table["value"].isna().all():
        return None
    headers = ("Finding", "AUC (bounds)", "Brier score (bounds)", "Calibration error (bounds)", "Sites")
    out = Table("federation", "All sites' test patients together, from counts of scores", headers)
    for finding, part in table.groupby("finding", sort=False):
        rows = {str(row["metric"]): row for row in part.to_dict("records")}
        shown = [
            number(out, row["value"], str(row["reason"]), interval(row, "low", "high"))
            if (row := rows.get(metric)) is not None
            else out.undefined("not in federation.csv")
            for metric in ("auc", "brier", "ece")
        ]
        name = "Mean over findings" if finding == "macro" else str(finding)
        out.rows.append([Cell(name), *shown, count(float(part["n_sites"].max()))])
    return out


def site_sections(data: RunTables) -> list[dict[str, Any]]:
    """A part of the page for each site: in words, findings with intervals, thresholds."""
    out = []
    for k, site in enumerate(data.sites):
        out.append(
            {
                "name": site,
                "id": f"site-{k}",
                "words": _site_words(data, site),
                "plot": _site_plot(data, site, k),
                "table": tables.findings_table(data, site),
                "thresholds": thresholds(data, site, f"thresholds-{k}"),
            }
        )
    return out


def _site_plot(data: RunTables, site: str, k: int) -> Any:
    rows = []
    for finding in (*data.findings, "macro"):
        row = data.cell(site, finding, "auc")
        ends = (float(row["value"]), float(row["low"]), float(row["high"])) if row else (np.nan, np.nan, np.nan)
        rows.append(("Mean over findings" if finding == "macro" else finding, ends, finding == "macro"))
    if all(np.isnan(ends[0]) for _, ends, _ in rows):
        return None
    alt = f"Test AUC of each finding at {site} with 95% intervals; the table below has the numbers."
    return plots.forest_plot(f"forest-{k}", rows, "AUC on test, with 95% interval", alt)


def _site_words(data: RunTables, site: str) -> str:
    row = data.cell(site, "macro", "auc")
    if row is None or np.isnan(row["value"]):
        return f"No number of {site} is here{': ' + str(row['reason']) if row and row['reason'] else ''}."
    told = interval(row, "low", "high")
    text = f"Mean AUC over {data.n_defined(site, 'auc')} of {len(data.findings)} findings: {decimal(row['value'])}"
    text += f" (95% interval {told})." if told else ", without an interval."
    values = {name: data.cell(site, name, "auc") for name in data.findings}
    below = [name for name, cell in values.items() if cell and cell["low"] <= 0.5]
    if below:
        text += f" No better than guessing for all we know here: {', '.join(below)}."
    return text
