"""Who reads the page: the federation, which sees no small count of a site, or one site, which sees itself alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from nc_medfl.data.quality.counts import MINIMUM, guarded
from nc_medfl.errors import UserError
from nc_medfl.evaluation.small_counts import WHOLE, telling_findings
from nc_medfl.report.reading import RunTables
from nc_medfl.report.withholding import (
    guard_cells,
    guard_extra,
    guard_fairness,
    guard_groups,
    guard_metrics,
)

#: With fewer sites, what all of them have in common less one's own is another site's.
SITES_TO_HIDE_IN = 3


def minimum_of(run: Mapping[str, Any]) -> int:
    """The smallest count of a site's patients that the federation's page shows, from the run's settings."""
    settings = run.get("settings") or {}
    asked = [(settings.get(part) or {}).get("min_positives") for part in ("aggregation", "release")]
    return max([MINIMUM, *(int(number) for number in asked if number)])


def for_federation(data: RunTables) -> RunTables:
    """What every site may read: numbers of findings with few positives or negatives at a site are withheld."""
    minimum = minimum_of(data.run)
    metrics, groups = guard_metrics(data.metrics, minimum), guard_groups(data.groups, minimum)
    telling = telling_findings(data.metrics, minimum)
    extra = {name: guard_extra(name, table, minimum, telling) for name, table in data.extra.items()}
    if "fairness" in extra:
        extra["fairness"] = guard_fairness(extra["fairness"], (metrics, groups), (data.metrics, data.groups))
    return replace(
        data,
        metrics=metrics,
        groups=groups,
        others=guard_cells(data.others, minimum) if len(data.others) else data.others,
        extra=extra,
        minimum=minimum,
    )


def for_site(data: RunTables, site: str) -> RunTables:
    """What a site may read: its own numbers whole, and what all sites have in common where there are enough of them.

    Raises:
        UserError: if the run has no such site.
    """
    if site not in data.sites:
        raise UserError(f"--site {site}: not a site of this run. It has: {', '.join(data.sites)}.")
    hidden_in = len(data.sites) >= SITES_TO_HIDE_IN
    minimum = minimum_of(data.run)
    kept = [site, *WHOLE] if hidden_in else [site]
    common = for_federation(data).metrics
    together = common[common["site"].isin(kept[1:])]
    parts = [data.metrics[data.metrics["site"] == site], together]
    run = dict(data.run) | {"sites": [site], "fingerprints": _own_fingerprints(data, site)}
    mine: pd.DataFrame = pd.concat([part for part in parts if len(part)]) if len(parts[0]) else together
    return replace(
        data,
        run=run,
        metrics=mine,
        rounds=_of(data.rounds, kept),
        updates=_of(data.updates, [site]),
        privacy=_of(data.privacy, [site]),
        labels=_of(data.labels, [site]),
        everywhere=_everywhere(data.labels, site, minimum) if hidden_in else None,
        collapse=_collapse(data.collapse, site) if hidden_in else None,
        groups=_rows_of(data.groups, [site]),
        others=_rows_of(data.others, kept),
        extra={name: _rows_of(table, [site]) for name, table in data.extra.items() if "site" in table},
        minimum=1,
    )


def _of(table: pd.DataFrame | None, sites: list[str]) -> pd.DataFrame | None:
    return None if table is None else _rows_of(table, sites)


def _rows_of(table: pd.DataFrame, sites: list[str]) -> pd.DataFrame:
    out: pd.DataFrame = table[table["site"].isin(sites)] if "site" in table else table
    return out


def _own_fingerprints(data: RunTables, site: str) -> dict[str, Any]:
    found = dict(data.run.get("fingerprints") or {})
    return {name: value for name, value in found.items() if ":" not in name or name.split(":", 1)[1] == site}


def _collapse(table: pd.DataFrame | None, site: str) -> pd.DataFrame | None:
    """What the federation measures; how many sites and patients a finding has elsewhere is theirs."""
    if table is None:
        return None
    out: pd.DataFrame = table[~table["metric"].isin(["n_sites", "n_positive"])]
    return _rows_of(out, [site, *WHOLE, ""])


def _everywhere(labels: pd.DataFrame | None, site: str, minimum: int) -> pd.DataFrame | None:
    """Label counts of all sites by finding; empty where they would tell a small count of the others."""
    if labels is None or labels.empty:
        return None
    columns = ["n_positive", "n_negative"]
    total = labels.groupby("finding", sort=False)[columns].sum()
    others = labels[labels["site"] != site].groupby("finding", sort=False)[columns].sum().reindex(total.index)
    hidden = ((others > 0) & (others < minimum)).any(axis=1)
    out: pd.DataFrame = total.astype(float).where(~hidden)
    return out


def shown_counts(row: pd.Series, minimum: int) -> tuple[list[float], float]:
    """Counts of a finding by site and their total, NaN where withheld.

    The total is withheld where no other site's count can be, for it would tell the withheld one.

    Args:
        row: counts by site, NaN where unknown.
        minimum: smallest that is shown.
    """
    known = {str(site): int(n) for site, n in row.items() if n == n}
    told = guarded(known, minimum)
    cells = [float("nan") if told.get(str(site)) is None else float(known[str(site)]) for site in row.index]
    hidden = [known[site] for site, count in told.items() if count is None]
    gives_away = bool(hidden) and (len(hidden) == 1 or sum(hidden) < minimum)
    return cells, float("nan") if gives_away else float(sum(known.values()))
