"""The ``search`` section of a matrix: which settings are tried for each method, and how many of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from nc_medfl.settings import Settings

Json = dict[str, Any]


class Range(Settings):
    """Numbers to draw from, for random search.

    Attributes:
        low: lowest; ``high`` the highest.
        log: draw evenly by order of magnitude.
    """

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 where log is set")
        return self


Values = tuple[Any, ...] | Range


class Search(Settings):
    """How settings are searched, with the same budget for every method, on validation alone.

    Attributes:
        budget: candidates of each method; the first is the method as the matrix has it.
        sampling: ``random`` draws them; ``grid`` takes all combinations, which must fit in the budget.
        seed: of the draws; a larger budget goes on where a smaller one ended.
        seeds: of the data, partition and weights of a candidate's runs; their mean counts.
        rounds: of a candidate's runs; None for as many as the matrix has.
        partitions: search on these, and take what is best on their mean for all; empty searches on each for itself.
        settings: lists or ranges of values by a setting's name with dots, such as ``training.lr``, for all methods.
        methods: more of them, or others in their place, for some methods; null leaves one out.
    """

    budget: int = Field(ge=1)
    sampling: Literal["grid", "random"] = "random"
    seed: int = Field(default=0, ge=0)
    seeds: tuple[int, ...] = Field(default=(1000,), min_length=1)
    rounds: int | None = Field(default=None, ge=1)
    partitions: tuple[str, ...] = ()
    settings: dict[str, Values] = Field(default={})
    methods: dict[str, dict[str, Values | None]] = Field(default={})

    def space(self, method: str) -> dict[str, Values]:
        """The values of each setting of a method."""
        own = {**self.settings, **self.methods.get(method, {})}
        return {name: values for name, values in own.items() if values is not None}


def points(space: Mapping[str, Values], sampling: str, seed: int) -> Iterator[Json]:
    """Settings to try, by name with dots, without an end where they are drawn from ranges.

    Args:
        space: the values of each setting.
        sampling: ``grid`` or ``random``.
        seed: of the draws.

    Raises:
        ValueError: for a grid of ranges.
    """
    if not space:
        return
    if sampling == "grid":
        if any(isinstance(values, Range) for values in space.values()):
            raise ValueError("a grid needs lists of values, not ranges")
        lists = [values for values in space.values() if not isinstance(values, Range)]
        for chosen in itertools.product(*lists):
            yield dict(zip(space, chosen, strict=True))
        return
    rng = np.random.default_rng([seed, 23])
    while True:
        yield {name: _draw(values, rng) for name, values in space.items()}


def size_of(space: Mapping[str, Values]) -> float:
    """How many combinations there are; infinity with a range."""
    return math.prod(math.inf if isinstance(v, Range) else len(v) for v in space.values()) if space else 0


def _draw(values: Values, rng: np.random.Generator) -> Any:
    if not isinstance(values, Range):
        return values[int(rng.integers(len(values)))]
    share = float(rng.random())
    if values.log:
        return _rounded(values.low * (values.high / values.low) ** share)
    return _rounded(values.low + share * (values.high - values.low))


def _rounded(value: float) -> float:
    """Three digits, so that what is published can be typed."""
    return float(f"{value:.3g}")


def nested(dotted: Mapping[str, Any]) -> Json:
    """Settings by name with dots as nested ones.

    Example:
        >>> nested({"training.lr": 0.1, "rounds": 3})
        {'training': {'lr': 0.1}, 'rounds': 3}
    """
    out: Json = {}
    for name, value in dotted.items():
        *way, last = name.split(".")
        place = out
        for key in way:
            place = place.setdefault(key, {})
        place[last] = value
    return out


def dotted_of(content: Mapping[str, Any], before: str = "") -> Json:
    """Nested settings by name with dots; undoes :func:`nested`."""
    out: Json = {}
    for key, value in content.items():
        name = f"{before}{key}"
        out |= dotted_of(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return out


def at(content: Any, name: str) -> Any:
    """The value at a name with dots; raises ``KeyError`` where there is none."""
    for key in name.split("."):
        if not isinstance(content, Mapping) or key not in content:
            raise KeyError(name)
        content = content[key]
    return content


def same(given: Any, found: Any) -> bool:
    """Whether a value of a search is the one that the settings hold; YAML 1.1 reads 1e-3 as text.

    Example:
        >>> same("1e-3", 0.001), same((0.9, 0.98), [0.9, 0.98]), same(True, 1.0)
        (True, True, False)
    """
    if isinstance(given, list | tuple):
        return list(given) == list(found or ())
    if isinstance(found, int | float) and not isinstance(given, bool):
        return float(given) == float(found)
    return bool(given == found) and isinstance(given, bool) == isinstance(found, bool)


def shown(dotted: Mapping[str, Any]) -> str:
    """Settings in a line, for tables.

    Example:
        >>> shown({"training.lr": 0.001, "network.norm": "group"})
        'training.lr=0.001, network.norm=group'
    """
    return ", ".join(f"{name}={value}" for name, value in dotted.items())
