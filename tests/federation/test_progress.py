"""Progress on its way from the server's file to whoever follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.federation.progress import Listener, told
from nc_medfl.federation.roundlog import RoundLog


def write(folder: Path, numbers: range) -> Path:
    log = RoundLog(folder)
    for number in numbers:
        log.progress(event="round", round=number)
    return folder / "progress.jsonl"


def test_the_newest_entries_are_told_and_a_half_written_one_is_not(tmp_path: Path) -> None:
    path = write(tmp_path, range(30))
    with path.open("a") as stream:
        stream.write('{"event": "rou')
    found = told(path)
    assert found["first"] == 10
    assert [json.loads(line)["round"] for line in found["events"]] == list(range(10, 30))
    assert told(tmp_path / "none") == {"first": 0, "events": []}


@given(looks=st.lists(st.integers(0, 20), max_size=30))
def test_every_entry_is_heard_once_in_order_however_often_one_looks(looks: list[int]) -> None:
    # Between two looks so many entries come; up to 20 of them are told at a time.
    heard: list[int] = []
    listener = Listener(lambda event: heard.append(event["round"]))
    n = 0
    for more in looks:
        n += more
        lines = [json.dumps({"event": "round", "round": i}) for i in range(n)]
        first = max(0, n - 20)
        listener.hear({"first": first, "events": lines[first:]})
    assert heard == list(range(n))


def test_what_was_missed_comes_with_the_results(tmp_path: Path) -> None:
    heard: list[int] = []
    listener = Listener(lambda event: heard.append(event["round"]))
    path = write(tmp_path, range(5))
    listener.hear({"first": 0, "events": path.read_text().splitlines()[:3]})
    listener.read(path)
    listener.read(path)
    assert heard == list(range(5))


def test_what_is_no_progress_is_left_alone() -> None:
    heard: list[Any] = []
    listener = Listener(heard.append)
    for nonsense in (None, "text", {}, {"events": None}, {"first": 0, "events": ["{", 3, "[]", "{}"]}):
        listener.hear(nonsense)
    assert heard == []
