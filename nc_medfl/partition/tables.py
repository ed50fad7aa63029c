"""A description of sites as text: rows for a table, and a Markdown page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nc_medfl.labels import NO_FINDING
from nc_medfl.partition.describe import SiteDescription

#: Pairs of findings shown per site.
_PAIRS_SHOWN = 5

Table = tuple[list[str], list[list[str]]]


def site_table(description: SiteDescription) -> Table:
    """Header and rows: images by split, patients, distances, one row a site."""
    header = ["site", "images", "train", "val", "test", "patients", "label skew", "total variation"]
    rows = []
    for row in description.sites.to_dict("records"):
        counts = [f"{row[key]:,}" for key in ("n_images", "train", "val", "test", "n_patients")]
        rows.append([str(row["site"]), *counts, _number(row["label_skew"]), _number(row["total_variation"])])
    return header, rows


def finding_table(description: SiteDescription) -> Table:
    """Header and rows: positives and prevalence, one row a finding and one column a site."""
    positives, prevalence = description.positives(), description.prevalence()
    rows = []
    for name in (*description.findings, NO_FINDING):
        cells = []
        for site in positives.index:
            share = float(prevalence.loc[site, name])
            cells.append("unknown" if math.isnan(share) else f"{int(positives.loc[site, name]):,} ({share:.1%})")
        rows.append([name, *cells])
    return ["finding", *(str(site) for site in positives.index)], rows


def pair_table(description: SiteDescription) -> Table:
    """Header and rows: the findings most often seen together at each site."""
    rows = []
    for site in description.sites["site"]:
        pairs = description.cooccurrence.query("site == @site and n > 0")
        top = pairs.sort_values("n", ascending=False, kind="stable").head(_PAIRS_SHOWN)
        shown = [f"{row['finding_a']} + {row['finding_b']} ({row['n']:,})" for row in top.to_dict("records")]
        rows.append([str(site), ", ".join(shown) or "none"])
    return ["site", "most often together (images)"], rows


def markdown_page(description: SiteDescription, title: str, remarks: Sequence[str]) -> str:
    """A Markdown page with the three tables below some remarks."""
    parts = [f"# {title}", *remarks]
    sections: Mapping[str, Table] = {
        "Sites": site_table(description),
        "Positive images (prevalence)": finding_table(description),
        "Co-occurrence": pair_table(description),
    }
    for heading, (header, rows) in sections.items():
        lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
        parts += [f"## {heading}", "\n".join(lines)]
    parts.append(
        "Label skew is the mean absolute difference between a site's prevalence and that of all sites together; "
        f"total variation is the share of a site's labels (with {NO_FINDING}) that would have to be other ones to "
        "match the mix of all sites."
    )
    return "\n\n".join(parts) + "\n"


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
