"""What is free goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import psutil
from nc_medfl.federation.memory import give_back
rss = lambda: psutil.Process().memory_info().rss / 2**20
pieces = [bytes(100_000) for _ in range(2_000)]  # below what glibc maps apart
for piece in range(0, len(pieces), 20):
    pieces[piece] = bytes(100)
last, full = pieces[-1], rss()
del pieces[:-1]
kept = rss()
give_back()
print(full - kept, kept - rss())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed below something in use")
def test_what_the_heap_keeps_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300, check=True)
    by_itself, given_back = map(float, done.stdout.split())
    assert given_back > 100 > by_itself
