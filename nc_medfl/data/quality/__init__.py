"""The quality page of a store: ``quality.html`` and ``quality.json``, numbers that may be shown around the site."""

from __future__ import annotations

from nc_medfl.data.quality.page import QUALITY_HTML, QUALITY_JSON, quality_needs, refresh_quality, write_quality

__all__ = ["QUALITY_HTML", "QUALITY_JSON", "quality_needs", "refresh_quality", "write_quality"]
