"""Fixtures shared by every test."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# One thread everywhere: processes of a federation do not crowd each other out, and a replay in this process rounds as
# the sites did.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the tests in the background has them, and all that they start, ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project; the test is skipped where there is none."""
    folder = Path(os.environ.get("NC_MEDFL_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real data (../shared/data) is not beside the project")
    return folder
