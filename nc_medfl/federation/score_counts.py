"""Histograms of scores on their way: what a site counts, the text that travels, and what the server makes of it.

For each split and finding two lists of runs ``[first bin, last bin, count]``, of positives and of negatives. The bins
are those of :mod:`nc_medfl.metrics.histograms`, the same everywhere. No run holds fewer patients than the site allows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nc_medfl.config import PrivacySettings
from nc_medfl.evaluation.patients import Scored
from nc_medfl.federation import keys
from nc_medfl.federation.refusal import RefusedUpdate
from nc_medfl.metrics.histograms import N_BINS, Runs, count_runs

SPLITS = ("val", "test")
_KINDS = ("positive", "negative")
_WHAT = "histograms"
#: Of the text: 100 findings, 2 splits, every bin filled.
_MAX_CHARACTERS = 16_000_000


@dataclass(frozen=True)
class FindingRuns:
    """A finding's scores at one site.

    Attributes:
        positive: of images with a label of 1.
        negative: of images with a label of 0.
    """

    positive: Runs
    negative: Runs


#: By split and finding; a finding that a site says nothing of is not in it.
ScoreCounts = Mapping[str, Mapping[str, FindingRuns]]


def counts_text(parts: Mapping[str, Scored], findings: Collection[str], privacy: PrivacySettings) -> str:
    """A site's histograms as the text that travels.

    Args:
        parts: scores and labels by split.
        findings: names of the columns.
        privacy: the site's. Findings with fewer positives in a split than ``min_test_positives`` are left out of it.
    """
    content: dict[str, Any] = {"bins": N_BINS}
    for split, found in parts.items():
        content[split] = {}
        for c, finding in enumerate(findings):
            labels, scores = found.labels[:, c], found.scores[:, c]
            if (labels == 1).sum() < privacy.min_test_positives or not np.isfinite(scores[~np.isnan(labels)]).all():
                continue
            content[split][finding] = [
                _as_lists(count_runs(scores[labels == kind], privacy.min_bin_patients, found.patients[labels == kind]))
                for kind in (1, 0)
            ]
    return json.dumps(content, separators=(",", ":"))


def _as_lists(runs: Runs) -> list[list[int]]:
    rows: list[list[int]] = np.stack([runs.first, runs.last, runs.count], axis=1).tolist()
    return rows


def read_counts(meta: Mapping[str, Any], findings: Collection[str], max_samples: int) -> ScoreCounts | None:
    """A site's histograms, checked; None where it sent none.

    Raises:
        RefusedUpdate: if they are malformed.
    """
    text = meta.get(keys.HISTOGRAMS)
    if text is None:
        return None
    content = _parsed(text)
    if content.pop("bins", None) != N_BINS:
        raise RefusedUpdate(f"its {_WHAT} have other bins than the server's")
    if not set(content) <= set(SPLITS) or not all(isinstance(part, dict) for part in content.values()):
        raise RefusedUpdate(f"its {_WHAT} are not of validation and test")
    for part in content.values():
        if not set(part) <= set(findings):
            raise RefusedUpdate(f"its {_WHAT} name a finding that is not in the vocabulary")
    return {
        split: {finding: _finding(given, max_samples) for finding, given in part.items()}
        for split, part in content.items()
    }


def _parsed(text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or len(text) > _MAX_CHARACTERS:
        raise RefusedUpdate(f"its {_WHAT} are not text of up to {_MAX_CHARACTERS} characters")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedUpdate(f"its {_WHAT} are not valid JSON") from error
    if not isinstance(content, dict):
        raise RefusedUpdate(f"its {_WHAT} are not of validation and test")
    return content


def _finding(given: Any, max_samples: int) -> FindingRuns:
    if not isinstance(given, list) or len(given) != len(_KINDS):
        raise RefusedUpdate(f"its {_WHAT} are not two lists a finding")
    runs = FindingRuns(*(_runs(kind) for kind in given))
    if runs.positive.total + runs.negative.total > max_samples:
        raise RefusedUpdate(f"its {_WHAT} count more images than aggregation.max_samples ({max_samples})")
    return runs


def _runs(given: Any) -> Runs:
    complaint = f"its {_WHAT} hold something else than runs of bins with counts"
    if not isinstance(given, list) or len(given) > N_BINS:
        raise RefusedUpdate(complaint)
    for row in given:
        whole = isinstance(row, list) and len(row) == 3 and all(type(number) is int for number in row)
        if not whole or not (0 <= row[0] <= row[1] < N_BINS and 1 <= row[2] < 2**31):
            raise RefusedUpdate(complaint)
    table = np.array(given, dtype=np.int64).reshape(-1, 3)
    if (table[1:, 0] <= table[:-1, 1]).any():
        raise RefusedUpdate(f"its {_WHAT} hold runs that overlap")
    return Runs(table[:, 0], table[:, 1], table[:, 2])
