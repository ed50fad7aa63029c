"""The page: everything a run folder tells, in one HTML file that needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from nc_medfl.data.store import write_atomic
from nc_medfl.errors import writing
from nc_medfl.evaluation.tables import POOLED
from nc_medfl.pages import environment
from nc_medfl.report import curve_plots, plots, sections, tables, words
from nc_medfl.report.audience import for_federation, for_site
from nc_medfl.report.cells import ROUGH_BELOW, decimal
from nc_medfl.report.differences import differences
from nc_medfl.report.label_tables import label_tables
from nc_medfl.report.plots import Estimate
from nc_medfl.report.reading import RunTables, read_run_folder

REPORT_HTML = "report.html"

_LOSSES = ("loss", "bce", "rejection", "contrast")
_FILE_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def write_report(run_folder: Path, site: str | None = None, out: Path | None = None) -> Path:
    """Write ``report.html`` of a run.

    The page is one file: no network, no other file, readable without JavaScript. It holds counts and metrics;
    no path, no identifier of a patient. The same folder gives the same bytes.

    Args:
        run_folder: with ``run.json`` and ``metrics.csv``; ``rounds.csv``, ``collapse.csv``, ``updates.csv``,
            ``privacy.csv`` and ``label_statistics.csv`` are shown where they are, and (all but
            ``privacy.csv``) named as absent where they are not. Any other folder with a ``metrics.csv`` will do.
        site: makes the page of one site, with its own numbers alone and those that all sites have in common; the
            file is then ``report_<site>.html``.
        out: file to write instead.

    Returns:
        The path of the page.

    Raises:
        UserError: if ``metrics.csv`` is missing, a file is damaged, the run has no such site, or the page can't be
            written.
    """
    path = out or run_folder / (REPORT_HTML if site is None else f"report_{_FILE_NAME.sub('_', site)}.html")
    with writing(path, "Give --out another file."):
        read = read_run_folder(run_folder)
        data = for_federation(read) if site is None else for_site(read, site)
        page = environment("nc_medfl.report").get_template("report.html.j2").render(_context(data, site))
        write_atomic(path, page.encode("utf-8"))
    return path


def _context(data: RunTables, only: str | None) -> dict[str, Any]:
    run = data.run
    best = run.get("best_round")
    best_round = int(best) if best is not None else None
    return {
        "run": {key: run.get(key) for key in ("name", "env", "seed", "outcome", "rounds")},
        "method": words.METHODS.get(str(run.get("method")), str(run.get("method"))),
        "when": words.when(run),
        "n_sites": len(data.sites),
        "n_findings": len(data.findings),
        "absent": data.absent,
        "headline": words.headline(data, only),
        "interval_kind": words.interval_kind(run),
        "differences": differences(data.extra.get("comparisons"), data.sites if only is None else [only]),
        "rare": words.rare_findings(data),
        "rough_below": ROUGH_BELOW,
        "thresholds": words.threshold_sentence(run),
        "floor": words.floor_example(data),
        "best_round": best_round,
        "whole": tables.site_name(data.whole),
        "sites": {
            "plot": _sites_plot(data),
            "table": tables.sites_table(data),
            "mean_has_interval": not np.isnan(_estimate(data, "all", "macro")[1]),
        },
        "findings": _findings(data),
        "rounds": _rounds(data, best_round),
        "labels": label_tables(data),
        "collapse": _collapse(data, best_round),
        "updates": _updates(data),
        "privacy": tables.privacy_table(data.privacy) if data.privacy is not None else None,
        "curves": sections.curves(data),
        "reliability": sections.reliability(data),
        "thresholds_table": sections.thresholds(data, _threshold_site(data), "thresholds"),
        "fairness": sections.fairness(data),
        "federation": sections.federation(data),
        "site_sections": sections.site_sections(data),
        "minimum": data.minimum,
        "only": only,
        "settings": words.flat_settings(run.get("settings") or {}),
        "versions": sorted((str(k), str(v)) for k, v in dict(run.get("versions") or {}).items()),
        "fingerprints": words.short_fingerprints(run),
    }


def _estimate(data: RunTables, site: str, finding: str) -> Estimate:
    row = data.cell(site, finding, "auc")
    return (float(row["value"]), float(row["low"]), float(row["high"])) if row else (np.nan, np.nan, np.nan)


def _sites_plot(data: RunTables) -> Markup:
    present = [name for name in ("all", "pooled") if (data.metrics["site"] == name).any()]
    rows = [(site, _estimate(data, site, "macro"), False) for site in data.sites]
    rows += [(tables.site_name(name), _estimate(data, name, "macro"), True) for name in present]
    alt = "Test macro AUC with 95% intervals: " + _listed([(name, estimate[0]) for name, estimate, _ in rows])
    return plots.forest_plot("forest", rows, "macro AUC on test, with 95% interval", alt)


def _findings(data: RunTables) -> dict[str, Any]:
    order = sorted(data.findings, key=lambda name: -np.nan_to_num(data.value(data.whole, name, "auc"), nan=-1.0))
    rows = [(name, _estimate(data, data.whole, name)) for name in order]
    by_site = {site: [data.value(site, name, "auc") for name in order] for site in data.sites}
    alt = f"Test AUC of each finding, {tables.site_name(data.whole)}, with 95% intervals and the sites' own values: "
    table = tables.findings_table(data, data.whole)
    if data.whole in data.sites:
        table.name = "findings-own"  # the part of the only site has a table of the same numbers
    return {
        "plot": plots.findings_plot(rows, by_site, alt + _listed([(name, e[0]) for name, e in rows])),
        "table": table,
        "by_site": tables.auc_by_site_table(data),
    }


def _listed(numbers: list[tuple[str, float]]) -> str:
    told = (f"{name} {'undefined' if np.isnan(value) else decimal(value)}" for name, value in numbers)
    return ", ".join(told) + "."


def _lines(table: pd.DataFrame, by: str) -> dict[str, pd.Series]:
    """Values over rounds, one series for each value of a column, in order of appearance."""
    return {
        str(key): part.set_index("round")["value"].groupby(level=0).last().sort_index().dropna()
        for key, part in table.groupby(by, sort=False)
        if part["value"].notna().any()
    }


def _rounds(data: RunTables, best_round: int | None) -> dict[str, Any] | None:
    table = data.rounds
    if table is None or table.empty:
        return None
    macro = table[(table["split"] == "val") & (table["finding"] == "macro") & (table["metric"] == "auc")]
    lines = _lines(macro[macro["site"] != "all"], "site")
    lines = {site: lines[site] for site in (*(s for s in data.sites if s in lines), *(lines.keys() - set(data.sites)))}
    mean = _lines(macro[macro["site"] == "all"], "site").get("all")
    if mean is None:
        several = len(lines) > 1
        mean = pd.concat(list(lines.values()), axis=1).mean(axis=1) if several else pd.Series(dtype=float)
    train = table[table["split"] == "train"]
    losses = {name: _lines(train[train["metric"] == name], "site") for name in _LOSSES}
    losses = {name: parts for name, parts in losses.items() if parts}
    return {
        "plot": plots.rounds_plot(lines, mean, best_round) if lines else None,
        "losses": plots.losses_plot(losses) if losses else None,
        "loss_names": list(losses),
        "table": tables.rounds_table(mean, lines) if lines else None,
    }


def _collapse(data: RunTables, best_round: int | None) -> dict[str, Any] | None:
    table = data.collapse
    if table is None or table.empty:
        return None
    overall = _lines(table[table["finding"] == "all"], "metric")
    panels: dict[str, dict[str, pd.Series]] = {}
    for title, names in (("NC1", ("nc1",)), ("NC2", ("nc2_angle", "nc2_length")), ("NC3", ("nc3",))):
        told = {{"nc2_angle": "angles", "nc2_length": "lengths"}.get(n, n): overall[n] for n in names if n in overall}
        if told:
            panels[title] = told
    gaps = _lines(table[table["metric"] == "ncpn"], "finding")
    if gaps:
        panels["NCpn, by finding"] = gaps
    told_rounds = table["round"].dropna()
    at_round = int(told_rounds.max())
    if best_round is not None and best_round in set(told_rounds):
        at_round = best_round
    here = table[(table["round"] == at_round) & (table["finding"] == "all")]
    numbers = {r["metric"]: (r["value"], r["reason"]) for r in here.to_dict("records")}
    return {
        "plot": plots.collapse_plot(panels, best_round) if panels else None,
        "at_round": at_round,
        "numbers": {
            name: _number(*numbers.get(name, (np.nan, ""))) for name in ("nc1", "nc2_angle", "nc2_length", "nc3")
        },
        "aligned": words.aligned(table[table["round"] == at_round]),
        "table": tables.collapse_table(table, data.findings, at_round, data.minimum),
    }


def _number(value: float, reason: str) -> str:
    return f"undefined ({reason or 'not measured'})" if np.isnan(value) else decimal(value)


def _updates(data: RunTables) -> dict[str, Any] | None:
    if data.updates is None or data.updates.empty:
        return None
    lost = (data.updates["outcome"] != "accepted").any()
    return {
        "sentence": words.update_sentence(data.updates),
        "table": tables.refused_table(data.updates),
        "plot": curve_plots.updates_plot(data.updates, data.sites) if lost else None,
    }


def _threshold_site(data: RunTables) -> str:
    return POOLED if len(data.sites) > 1 else data.sites[0] if data.sites else POOLED
