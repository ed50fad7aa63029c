"""Tables of the page: sites, findings, rounds, collapse, updates, privacy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nc_medfl.report.cells import Cell, Table, count, decimal
from nc_medfl.report.reading import RunTables


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
        counts = [
            table.counted(float(row[name]), data.minimum) if row else table.undefined("")
            for name in ("n_positive", "n_annotated")
        ]
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


def rounds_table(mean: pd.Series, lines: dict[str, pd.Series]) -> Table:
    """The numbers behind the plot of rounds."""
    table = Table(
        "rounds-numbers",
        "Macro AUC on validation, by round",
        ("Round", *lines, *(["Mean over sites"] if len(mean) else [])),
    )
    rounds = sorted(set(mean.index).union(*(set(line.index) for line in lines.values())))
    for number in rounds:
        cells = [Cell(str(int(number)), str(int(number)))]
        for line in (*lines.values(), *([mean] if len(mean) else [])):
            value = float(line.get(number, np.nan))
            cells.append(table.undefined("") if np.isnan(value) else Cell(decimal(value), f"{value:.6g}"))
        table.rows.append(cells)
    return table


def collapse_table(collapse: pd.DataFrame, findings: Sequence[str], at_round: int, minimum: int = 1) -> Table:
    """Coverage, alignment with the vertex (NC3) and NCpn of each finding at one round."""
    names = {"n_sites": "Sites with a positive", "n_positive": "Training positives"}
    if (collapse["metric"] == "nc3").any():
        names |= {"nc1": "NC1", "nc3": "NC3 (1: on its vertex)"}
    names |= {"ncpn": "NCpn"}
    table = Table("collapse-numbers", f"By finding, at round {at_round}", ("Finding", *names.values()))
    here = collapse[collapse["round"] == at_round]
    cells = {(r["finding"], r["metric"]): r for r in here.to_dict("records")}
    for finding in findings:
        row = [Cell(finding)]
        for metric in names:
            item = cells.get((finding, metric))
            if item is None or np.isnan(item["value"]):
                row.append(table.undefined(item["reason"] if item else ""))
            elif metric.startswith("nc"):
                reason = str(item["reason"])
                text = f"{item['value']:.3g}".replace("-", "−")
                row.append(Cell(text, f"{item['value']:.6g}", "", table.mark(reason), reason))
            elif metric == "n_positive" and 0 < item["value"] < minimum:
                row.append(table.counted(np.nan, minimum))
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
