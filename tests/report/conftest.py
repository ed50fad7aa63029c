"""A finished run to report on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_up_run import make_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, made once; don't change it."""
    return make_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))
