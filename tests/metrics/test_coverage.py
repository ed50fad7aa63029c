"""A short run of the coverage simulation."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_intervals_hold_the_truth_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    shares = runpy.run_path(str(BENCHMARKS / "coverage.py"))["cover"](positives=50, draws=300, resamples=300, seed=1)
    # 95% with a standard deviation of 1.26%: three of them either way.
    assert all(0.91 <= share <= 0.99 for share in shares.values()), shares
