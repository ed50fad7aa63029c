"""Report: the tables of a run folder become one page that opens from disk, without a network."""

from __future__ import annotations

from nc_medfl.report.compare import write_comparison
from nc_medfl.report.page import write_report

__all__ = ["write_comparison", "write_report"]
