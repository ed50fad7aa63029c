"""Rows of ``metrics.csv`` from the sites' answers to a test, and for a site whose numbers did not come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nc_medfl.config import JobSettings
from nc_medfl.federation.answers import OVERALL, Row
from nc_medfl.federation.refusal import RefusedUpdate
from nc_medfl.labels import load_vocabulary

Meta = Mapping[str, Any]


def read_tests(
    metas: Mapping[str, Meta], read: Callable[[Meta], list[Row]], warn: Callable[[str], None]
) -> tuple[list[Row], dict[str, Meta], dict[str, str]]:
    """Read what sites measured. A site whose metrics are refused says no more: nothing else of it is used.

    Args:
        metas: what came from each site.
        read: gives the rows of one, or raises :class:`RefusedUpdate`.
        warn: told of each that is refused.

    Returns:
        The rows; what came from the sites that they are of; and why the others' were refused, by site.
    """
    rows: list[Row] = []
    used: dict[str, Meta] = {}
    refused: dict[str, str] = {}
    for site, meta in metas.items():
        try:
            rows += read(meta)
        except RefusedUpdate as refusal:
            warn(f"final metrics of {site} refused: {refusal}")
            refused[site] = f"its metrics were refused: {refusal}"
        else:
            used[site] = meta
    return rows, used, refused


def untested_rows(job: JobSettings, site: str, reason: str) -> list[Row]:
    """One row a finding, and one for each overall number, without a value.

    Args:
        job: that the numbers were asked for in.
        site: its name.
        reason: why there are none.
    """
    about = {"run": job.name, "model": job.method, "site": site, "split": "test", "group": "all"}
    row = {"metric": "auc", "value": None, "low": None, "high": None, "n_positive": 0, "n_annotated": 0}
    findings = (*load_vocabulary(job.vocabulary).findings, *OVERALL)
    return [{**about, "finding": name, **row, "reason": reason} for name in findings]
