"""Who reads the page: the federation, which sees no small count of a site, or one site, which sees itself alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from nc_medfl.data.quality.counts import MINIMUM, guarded
from nc_medfl.errors import UserError
from nc_medfl.evaluation.tables import ALL_SITES, POOLED
from nc_medfl.report.reading import RunTables

#: With fewer sites, what all of them have in common less one's own is another site's.
SITES_TO_HIDE_IN = 3
_WHOLE = (ALL_SITES, POOLED)
_ENDS = ["value", "low", "high"]


def minimum_of(run: Mapping[str, Any]) -> int:
    """The smallest count of a site's patients that the federation's page shows, from the run's settings."""
    settings = run.get("settings") or {}
    asked = [(settings.get(part) or {}).get("min_positives") for part in ("aggregation", "release")]
    return max([MINIMUM, *(int(number) for number in asked if number)])


def withheld(minimum: int) -> str:
    """Why a number is not shown."""
    return f"withheld: fewer than {minimum} positives or negatives"


def for_federation(data: RunTables) -> RunTables:
    """What every site may read: numbers of findings with few positives or negatives at a site are withheld."""
    minimum = minimum_of(data.run)
    return replace(
        data,
        metrics=_guard_whole(_guard(data.metrics, minimum), data.metrics, minimum),
        groups=_guard(data.groups, minimum) if len(data.groups) else data.groups,
        others=_guard(data.others, minimum) if len(data.others) else data.others,
        extra={name: _guard_extra(name, table, minimum) for name, table in data.extra.items()},
        minimum=minimum,
    )


def few(n_positive: pd.Series, n_annotated: pd.Series, minimum: int) -> pd.Series:
    """Where 1 to ``minimum - 1`` are positive, or negative."""
    negative = n_annotated - n_positive
    out: pd.Series = ((n_positive > 0) & (n_positive < minimum)) | ((negative > 0) & (negative < minimum))
    return out


def _guard(rows: pd.DataFrame, minimum: int) -> pd.DataFrame:
    out: pd.DataFrame = rows.copy()
    hidden = few(rows["n_positive"], rows["n_annotated"], minimum)
    out["n_positive"] = out["n_positive"].astype(float).where(~hidden)
    out.loc[hidden, _ENDS] = float("nan")
    out.loc[hidden, "reason"] = withheld(minimum)
    return out


def _guard_whole(out: pd.DataFrame, rows: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """Withhold counts of all sites that would give away the one count that a site withholds."""
    sites = rows[~rows["site"].isin(_WHOLE)]
    for finding, part in sites[sites["metric"] == "auc"].groupby("finding", sort=False):
        counts = {site: int(n) for site, n in zip(part["site"], part["n_positive"], strict=True)}
        counts |= {
            f"{site}, negatives": int(n)
            for site, n in zip(part["site"], part["n_annotated"] - part["n_positive"], strict=True)
        }
        small = [n for n in counts.values() if 0 < n < minimum]
        if small and (len(small) == 1 or sum(small) < minimum):
            out.loc[out["site"].isin(_WHOLE) & (out["finding"] == finding), "n_positive"] = float("nan")
    return out


def guard_comparisons(table: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """Paired differences without those of a site that rest on few positives or negatives."""
    out: pd.DataFrame = table.copy()
    hidden = few(table["n_positive"], table["n_annotated"], minimum) & ~table["site"].isin(_WHOLE)
    numbers = [*(name for name in table.columns if name.startswith(("value", "p"))), "difference", "low", "high"]
    out.loc[hidden, [*numbers, "n_positive"]] = float("nan")
    out.loc[hidden, "reason"] = withheld(minimum)
    out.loc[hidden, "sentence"] = ""
    return out


def _guard_extra(name: str, table: pd.DataFrame, minimum: int) -> pd.DataFrame:
    if name == "comparisons":
        return guard_comparisons(table, minimum)
    if name != "thresholds":
        return table
    out: pd.DataFrame = table.copy()
    hidden = few(table["test_n_positive"], table["test_n_annotated"], minimum)
    told = [c for c in table.columns if c == "threshold" or (c.startswith(("test_", "val_")) and "annotated" not in c)]
    out.loc[hidden, told] = float("nan")
    out.loc[hidden, "reason"] = withheld(minimum)
    return out


def for_site(data: RunTables, site: str) -> RunTables:
    """What a site may read: its own numbers whole, and what all sites have in common where there are enough of them.

    Raises:
        UserError: if the run has no such site.
    """
    if site not in data.sites:
        raise UserError(f"--site {site}: not a site of this run. It has: {', '.join(data.sites)}.")
    hidden_in = len(data.sites) >= SITES_TO_HIDE_IN
    minimum = minimum_of(data.run)
    kept = [site, *_WHOLE] if hidden_in else [site]
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
    return _rows_of(out, [site, *_WHOLE, ""])


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

    Args:
        row: counts by site, NaN where unknown.
        minimum: smallest that is shown.
    """
    known = {str(site): int(n) for site, n in row.items() if n == n}
    told = guarded(known, minimum)
    cells = [float("nan") if told.get(str(site)) is None else float(known[str(site)]) for site in row.index]
    return cells, float(sum(known.values()))
