"""Rows of ``metrics.csv`` for a site whose numbers did not come, so that it isn't missed."""

from __future__ import annotations

from nc_medfl.config import JobSettings
from nc_medfl.federation.answers import OVERALL, Row
from nc_medfl.labels import load_vocabulary


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
