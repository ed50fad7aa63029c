"""Startup kits, made by FLARE's own provisioning."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests_support import REPOSITORY


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kits of ``site_configs/project.yml``; not to be changed."""
    folder = tmp_path_factory.mktemp("provisioned")
    command = [str(Path(sys.executable).parent / "nvflare"), "provision", "-w", str(folder)]
    command += ["-p", str(REPOSITORY / "site_configs" / "project.yml")]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "cxr_federation" / "prod_00"


@pytest.fixture
def kits(provisioned: Path, tmp_path: Path) -> Path:
    """A copy of them that may be changed."""
    return shutil.copytree(provisioned, tmp_path / "kits")
