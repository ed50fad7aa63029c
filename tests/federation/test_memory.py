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


CIRCLES = """
import gc
import weakref
from nc_medfl.federation.memory import give_back, set_aside
gc.disable()  # as if no search were due for a long time

class Message:
    def __init__(self):
        self.me = self

def sent():
    message = Message()
    return weakref.ref(message)

before = sent()
assert before() is not None
set_aside()
print(before() is None, gc.get_freeze_count() > 1_000)
after = sent()
print(after() is None)
give_back()
print(after() is None)
"""


def test_what_refers_to_itself_goes_though_most_of_the_memory_is_set_aside() -> None:
    done = subprocess.run([sys.executable, "-c", CIRCLES], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["True", "True", "False", "True"]
