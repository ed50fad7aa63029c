"""What a global model is worth: scores on validation and test as rows of ``results.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nc_medfl.benchmark.sites import DealtPool
from nc_medfl.config import JobSettings
from nc_medfl.data.dataset import make_loader
from nc_medfl.data.store import Store
from nc_medfl.evaluation.thresholds import Thresholds, choose_thresholds
from nc_medfl.metrics.classification import Sample, measure, prepare_sample
from nc_medfl.metrics.collapse import ClassStatistics, class_statistics, collapse_metrics
from nc_medfl.training.precision import Precision

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

#: Where the images of all sites are measured together.
POOLED = "pooled"
#: F1 at 0.5, at the threshold of the largest F1 on validation, and of calling everything positive.
F1_HALF, F1_VALIDATION = "f1_half", "f1_validation"
_SHORT = ("auc", "average_precision", "f1", F1_HALF, F1_VALIDATION)


@dataclass(frozen=True)
class Scored:
    """A model's scores beside labels, and the collapse of its class features.

    Attributes:
        scores: probabilities, ``[N, C]``.
        labels: ``[N, C]``, NaN unknown.
        statistics: sums of class features, or None for a method without them.
    """

    scores: Floats
    labels: Floats
    statistics: ClassStatistics | None


@torch.inference_mode()
def score(network: nn.Module, store: Store, settings: JobSettings, size: tuple[int, int], batch_size: int) -> Scored:
    """Score every image of a store, whatever its split.

    Args:
        network: with the model's weights; it is put into evaluation mode.
        store: open.
        settings: of the job.
        size: height and width that the network reads.
        batch_size: images a batch.
    """
    network.eval()
    device = next(network.parameters()).device
    precision = Precision(device, settings.training.precision == "mixed")
    rows = np.arange(len(store))
    batches = make_loader(
        store,
        "",
        batch_size=batch_size,
        training=False,
        size=size,
        normalisation=settings.training.normalisation,
        channels=settings.network.in_channels,
        rows=np.split(rows, range(batch_size, len(rows), batch_size)),
        device=device,
    )
    scores: list[Tensor] = []
    statistics: ClassStatistics | None = None
    for batch in batches:
        with precision.autocast():
            output = network(batch["image"])
        scores.append(torch.sigmoid(output.logits.double()).cpu())
        if hasattr(output, "class_features"):
            part = class_statistics(output.class_features.float(), batch["label"]).cpu()
            statistics = part if statistics is None else statistics + part
    return Scored(torch.cat(scores).numpy(), store.labels().astype(np.float64), statistics)


def rows_of(
    validation: Scored, test: Scored | None, settings: JobSettings, findings: tuple[str, ...], frame: Tensor | None
) -> list[Row]:
    """Every metric of every class, as rows with split, site, finding, metric and value.

    Args:
        validation: chooses thresholds.
        test: never chooses anything; None leaves it out.
        settings: of the job, with the rule for thresholds.
        findings: names of the classes.
        frame: the shared simplex, where the method has one.
    """
    chosen = choose_thresholds(validation.scores, validation.labels, rule=settings.evaluation.threshold)
    best = choose_thresholds(validation.scores, validation.labels, rule="f1")
    rows = []
    for split, found in (("val", validation), ("test", test)):
        if found is None:
            continue
        values = _values(found, chosen, best)
        rows += _long(values, split, findings)
        rows += _collapse_rows(found, frame, split, findings)
    return rows


def _values(found: Scored, chosen: Thresholds, best: Thresholds) -> Mapping[str, Floats]:
    """Each metric's value for findings, macro and micro, ``[C + 2]``."""

    def sample(thresholds: Thresholds) -> Sample:
        return prepare_sample(found.scores, found.labels, thresholds.values, thresholds.reasons)

    values = {name: value[0] for name, value in measure(sample(chosen)).items()}
    half = choose_thresholds(found.scores, found.labels, rule="half")
    values[F1_HALF] = measure(sample(half))["f1"][0]
    values[F1_VALIDATION] = measure(sample(best))["f1"][0]
    return values


def short(rows: list[Row]) -> list[Row]:
    """What a curve needs of a round: the AUC of each class, means of a few metrics, collapse and losses."""
    return [
        row
        for row in rows
        if row["finding"] == "all" or row["metric"] == "auc" or (row["metric"] in _SHORT and row["finding"] == "macro")
    ]


def _long(values: Mapping[str, Floats], split: str, findings: tuple[str, ...]) -> list[Row]:
    names = (*findings, "macro", "micro")
    return [
        _row(split, finding, metric, value)
        for metric, column in values.items()
        for finding, value in zip(names, column.tolist(), strict=True)
    ]


def _collapse_rows(found: Scored, frame: Tensor | None, split: str, findings: tuple[str, ...]) -> list[Row]:
    if frame is None or found.statistics is None:
        return []
    result = collapse_metrics(found.statistics, frame, min_positives=1)
    rows = [
        _row(split, "all", name, float(getattr(result, name))) for name in ("nc1", "nc2_angle", "nc2_length", "nc3")
    ]
    rows += [_row(split, name, "ncpn", value) for name, value in zip(findings, result.ncpn.tolist(), strict=True)]
    return rows


def _row(split: str, finding: str, metric: str, value: float) -> Row:
    return {
        "split": split,
        "site": POOLED,
        "finding": finding,
        "metric": metric,
        "value": value if np.isfinite(value) else None,
    }


def mean_rows(parts: list[list[Row]]) -> list[Row]:
    """The mean over several models' rows, of those values that are defined; the site becomes ``all``."""
    out = []
    for rows in zip(*parts, strict=True):
        values = [row["value"] for row in rows if row["value"] is not None]
        out.append({**rows[0], "site": "all", "value": float(np.mean(values)) if values else None})
    return out


def measured_sizes(dealt: DealtPool, settings: JobSettings) -> tuple[int, int]:
    """Height and width that the network reads."""
    from nc_medfl.federation.worker import network_size

    return network_size(settings, dealt.test)
