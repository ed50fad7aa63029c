"""Counts of a site that are too small to be told, and which totals would tell them."""

from __future__ import annotations

import pandas as pd

from nc_medfl.evaluation.tables import ALL_SITES, POOLED

#: What is no site of its own.
WHOLE = (ALL_SITES, POOLED)


def few(n_positive: pd.Series, n_annotated: pd.Series, minimum: int) -> pd.Series:
    """Where 1 to ``minimum - 1`` are positive, or negative."""
    negative = n_annotated - n_positive
    out: pd.Series = ((n_positive > 0) & (n_positive < minimum)) | ((negative > 0) & (negative < minimum))
    return out


def telling_findings(rows: pd.DataFrame, minimum: int) -> set[str]:
    """Findings of which a count of all sites would tell a withheld one of a site.

    Taken from the total, the sites that are shown leave the sum of the small counts; a site with a small count of its
    own can take that away too. So what is left without the largest of them must be enough.

    Args:
        rows: of ``metrics.csv``, nothing withheld.
        minimum: the smallest count that is shown.
    """
    sites = rows[~rows["site"].isin(WHOLE) & (rows["metric"] == "auc")]
    out = set()
    for finding, part in sites.groupby("finding", sort=False):
        counts = [*part["n_positive"], *(part["n_annotated"] - part["n_positive"])]
        small = [int(n) for n in counts if 0 < n < minimum]
        if small and sum(small) - max(small) < minimum:
            out.add(str(finding))
    return out
