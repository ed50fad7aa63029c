"""Never more at work than asked for, nothing lost, and a stop is a stop."""

from __future__ import annotations

import threading
import time

import pytest

from nc_medfl.data.pacs.workers import bounded_map


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_is_done_once_by_so_many_at_a_time(workers):
    lock, now, most = threading.Lock(), 0, 0

    def call(item: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1
        return item * item

    stop = threading.Event()
    assert sorted(bounded_map(call, range(20), workers=workers, stop=stop)) == [(n, n * n) for n in range(20)]
    assert most == workers
    assert not stop.is_set()


def test_an_exception_is_a_result():
    def call(item: int) -> float:
        return 1 / item

    results = dict(bounded_map(call, [0, 1], workers=2, stop=threading.Event()))
    assert isinstance(results[0], ZeroDivisionError)
    assert results[1] == 1


def test_nothing_begins_once_the_caller_has_left():
    begun: list[int] = []

    def call(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)

    stop = threading.Event()
    results = bounded_map(call, range(1000), workers=2, stop=stop)
    next(results)
    results.close()
    assert stop.is_set()
    count = len(begun)
    assert count < 20
    time.sleep(0.05)
    assert len(begun) == count


def test_no_items_are_no_work():
    assert list(bounded_map(str, [], workers=0, stop=threading.Event())) == []
