"""What a site that lies sends instead of its honest update: a lie a round, and what the server says of it.

``liar/sitecustomize.py`` has the machine of one site tell them; the job, the server and the other sites are untouched.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nc_medfl.federation import keys
from nc_medfl.federation.tasks import Answer, Task

#: The site that lies; and the file that its pickle would write if anybody loaded it.
LIAR, ENV_MARK = "mallory", "NC_MEDFL_TEST_MARK"

Params = dict[str, Any]
_BIAS = "classifier.bias"
_VARIANCE = "backbone.features.bn1.running_var"


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, target: str) -> None:
        self._target = Path(target)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self._target, "it ran")


def _params(change: Callable[[Params, Params], Params]) -> Callable[[Answer, Task, str], Answer]:
    """A lie about parameters, made of the trained ones and of those that the site was sent."""
    return lambda answer, task, _: replace(answer, params=change(dict(answer.params or {}), dict(task.params)))


def _meta(key: str, change: Callable[[Any], Any]) -> Callable[[Answer, Task, str], Answer]:
    return lambda answer, _task, _mark: replace(answer, meta={**answer.meta, key: change(answer.meta[key])})


def _counts(positive: float, negative: float) -> Callable[[Answer, Task, str], Answer]:
    def change(counts: Any) -> Any:
        changed = np.array(counts)
        changed[:, 3] = positive, negative
        return changed

    return _meta(keys.COUNTS, change)


def _print(name: str, value: str) -> Callable[[Answer, Task, str], Answer]:
    return _meta(keys.FINGERPRINTS, lambda prints: {**prints, name: value})


def _far(trained: Params, sent: Params) -> Params:
    # Variances stay as they are: under 0 they are a lie of their own.
    return {
        name: sent[name] + 1000 * (value - sent[name])
        if value.is_floating_point() and not name.endswith("running_var")
        else value
        for name, value in trained.items()
    }


def _planted(answer: Answer, _task: Task, mark: str) -> Answer:
    return replace(answer, params={**(answer.params or {}), _BIAS: pickle.dumps(Bomb(mark))})


#: What is sent, by a word for it, and how the reason in ``updates.csv`` begins or what it holds.
LIES: dict[str, tuple[Callable[[Answer, Task, str], Answer], str]] = {
    "a NaN": (_params(lambda t, _: {**t, _BIAS: torch.full_like(t[_BIAS], torch.nan)}), "NaN or an infinity"),
    "an infinity": (_params(lambda t, _: {**t, _BIAS: t[_BIAS] + torch.inf}), "NaN or an infinity"),
    "a variance under 0": (_params(lambda t, _: {**t, _VARIANCE: -t[_VARIANCE]}), f"{_VARIANCE} is under 0"),
    "another shape": (_params(lambda t, _: {**t, _BIAS: torch.zeros(2, 2)}), f"{_BIAS} has shape [2, 2]"),
    "another type": (_params(lambda t, _: {**t, _BIAS: t[_BIAS].double()}), f"{_BIAS} is torch.float64"),
    "a key less": (_params(lambda t, _: {k: v for k, v in t.items() if k != _BIAS}), "1 parameters missing"),
    "a key more": (_params(lambda t, _: {**t, "more.weight": torch.zeros(1)}), "1 unknown"),
    "nothing": (_params(lambda _t, _s: {"x": torch.zeros(1)}), "parameters missing"),
    "a norm far from the others'": (_params(_far), "times as long as the median"),
    "negative counts": (_counts(-1.0, 5.0), "class counts are negative"),
    "more positives than images": (_counts(10_000.0, 0.0), "more than its training images"),
    "a million images": (_meta(keys.N_SAMPLES, lambda _: 1_000_000), "aggregation.max_samples"),
    "another vocabulary": (_print("vocabulary", "0" * 64), "vocabulary fingerprint differs"),
    "another model": (_print("model", "0" * 64), "model fingerprint differs"),
    "another preparation": (_print("preparation", "f" * 64), "preparation settings differ"),
    "another version": (_print("package", "0.0.9"), "nc_medfl 0.0.9 there"),
    "a pickle": (_planted, f"{_BIAS} is not an array of numbers"),
}


def corrupt(client: Any, mark: str) -> None:
    """Alter a site's client (the module): honest in the first round and after the last lie, a lie in each between.

    The lie is told last of all, so that nothing at the site stands in its way.
    """
    lies = [lie for lie, _ in LIES.values()]
    make, as_model = client.Task, client._as_model
    tasks: list[Task] = []

    def note(*arguments: Any) -> Task:
        tasks[:] = [make(*arguments)]
        return tasks[0]

    def lie(answer: Answer) -> Any:
        (task,) = tasks
        if task.name == keys.TASK_TRAIN and 1 <= task.round_number <= len(lies):
            answer = lies[task.round_number - 1](answer, task, mark)
        return as_model(answer)

    client.Task, client._as_model = note, lie
