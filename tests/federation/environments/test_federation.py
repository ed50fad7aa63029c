"""A job and the sites it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from nc_medfl.config import FederationSettings, JobSettings
from nc_medfl.errors import UserError
from nc_medfl.federation.environments import Federation


def test_more_sites_a_round_than_there_are_is_said_before_anything_starts(tmp_path: Path) -> None:
    settings = JobSettings(federation=FederationSettings(min_sites=3))
    few = Federation(settings, tmp_path, sites=("a", "b"), sites_folder=tmp_path)
    with pytest.raises(UserError, match=r"federation\.min_sites: 3 sites are asked for, and there are 2"):
        _ = few.here
    assert Federation(settings, tmp_path, sites=("a", "b", "c"), sites_folder=tmp_path).here == tmp_path
