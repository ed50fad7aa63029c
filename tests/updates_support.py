"""Updates as sites send them, honest and not, and an aggregator to send them to."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from nvflare.app_common.abstract.fl_model import FLModel

from nc_medfl import __version__
from nc_medfl.config import JobSettings
from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import NCAwareAggregator
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.labels import load_vocabulary
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network, fingerprints

C = 14
PREPARATION = "a1" * 32


def settings_with(**aggregation: Any) -> JobSettings:
    """A small job, class-aware unless told otherwise."""
    content = {"network": {"backbone": "small"}, "aggregation": {"weighting": "class_aware", **aggregation}}
    return parse(JobSettings, content, where="test")


SETTINGS = settings_with()


class Aggregator(NCAwareAggregator):
    """The server's aggregator, with its warnings in a list: outside FLARE there is no context to log with."""

    def __init__(self, **aggregation: Any) -> None:
        super().__init__(to_arguments(settings_with(**aggregation)))
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def outcomes(self) -> dict[str, tuple[str, str]]:
        """Outcome and reason of each site's last answer."""
        return {row["site"]: (row["outcome"], row["reason"]) for row in self.log}


def a_network(seed: int) -> torch.nn.Module:
    """A network of the job with random weights."""
    network = build_network(SETTINGS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def start() -> dict[str, torch.Tensor]:
    """The model a federation of that job starts from."""
    return dict(build_network(SETTINGS).state_dict())


def some_sums(seed: int, dim: int) -> np.ndarray:
    """Feature sums that five unit vectors a class can have."""
    vectors = np.random.default_rng(seed).normal(size=(2, C, dim))
    return 3 * vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def an_update(site: str, seed: int = 0, **changes: Any) -> FLModel:
    """An honest update of ten images, five positives a class; ``meta`` and ``params`` replace parts of it."""
    network = a_network(seed)
    meta = {
        "client_name": site,
        keys.FINGERPRINTS: {
            **fingerprints(network, load_vocabulary("nih14")),
            "preparation": PREPARATION,
            "package": __version__,
        },
        keys.N_SAMPLES: 10,
        keys.COUNTS: np.tile([[5.0], [5.0]], (1, C)),
        keys.FEATURE_SUMS: some_sums(seed, network.frame.shape[1]),
        keys.LOSSES: json.dumps({"loss": 1.0}),
        keys.ROWS: json.dumps([{"split": "val", "finding": "macro", "metric": "auc", "value": 0.5}]),
    }
    meta |= changes.pop("meta", {})
    params = dict(network.state_dict())
    params |= changes.pop("params", {})
    for name in changes.pop("without", []):
        params.pop(name)
    return FLModel(params=params, meta=meta, **changes)


def a_step(site: str, seed: int, times: float = 1.0, size: float = 0.01, **changes: Any) -> FLModel:
    """An update that went a small random step from the start, times a factor (what a poisoner scales).

    Running variances only grow: they stay what a variance can be.
    """
    generator = torch.Generator().manual_seed(seed)
    params = {}
    for name, value in start().items():
        step = times * size * torch.randn(value.shape, generator=generator) if value.is_floating_point() else 3
        params[name] = value + (abs(step) if name.endswith("running_var") else step)
    return an_update(site, seed, params=params, **changes)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """L2 distance of two models over their floating numbers."""
    parts = [(one[n].double() - v.double()).square().sum() for n, v in other.items() if v.is_floating_point()]
    return float(torch.stack(parts).sum().sqrt())
