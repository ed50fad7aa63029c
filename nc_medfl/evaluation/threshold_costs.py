"""What a threshold costs: each rule's threshold, chosen on validation, and how it does on test.

The threshold is chosen at the site or over the validation patients of all sites. Test labels play no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.evaluation.patients import Floats, Scored, by_patient, pooled_arrays, resampled_sums
from nc_medfl.evaluation.thresholds import Rule, Thresholds, choose_thresholds
from nc_medfl.metrics.bootstrap import percentile_intervals
from nc_medfl.metrics.classification import NOT_A_NUMBER, THRESHOLD_METRICS, Counts

SITE, FEDERATION = "site", "federation"
POOLED = "pooled"

#: What a threshold is judged by.
COSTS = ("sensitivity", "specificity", "ppv", "npv", "f1")
_CELLS = ("tp", "fp", "fn", "tn")

#: Columns of ``thresholds.csv``, in order.
THRESHOLD_COLUMNS = (
    "run",
    "model",
    "site",
    "scope",
    "rule",
    "target",
    "finding",
    "threshold",
    "val_n_positive",
    "val_n_annotated",
    *(f"val_{name}" for name in COSTS),
    "test_n_positive",
    "test_n_annotated",
    *(f"test_{name}" for name in _CELLS),
    *(f"test_{name}{end}" for name in COSTS for end in ("", "_low", "_high")),
    "reason",
)


@dataclass(frozen=True)
class RuleSettings:
    """A rule and what it aims at.

    Attributes:
        rule: as :func:`~nc_medfl.evaluation.thresholds.choose_thresholds` knows it.
        target: of the rules ``sensitivity``, ``ppv`` and ``fixed``.
    """

    rule: Rule
    target: float | None = None


def all_rules(sensitivity: float = 0.9, ppv: float = 0.5, fixed: float = 0.5) -> tuple[RuleSettings, ...]:
    """Every rule that ``thresholds.csv`` compares.

    Args:
        sensitivity: share of positives to find.
        ppv: share of alarms to be right.
        fixed: a threshold that is not chosen at all.
    """
    return (
        RuleSettings("youden"),
        RuleSettings("sensitivity", sensitivity),
        RuleSettings("ppv", ppv),
        RuleSettings("f1"),
        RuleSettings("fixed", fixed),
    )


def threshold_table(
    validation: Mapping[str, Scored],
    test: Mapping[str, Scored],
    findings: Sequence[str],
    *,
    rules: Sequence[RuleSettings],
    run: str,
    model: str,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows of ``thresholds.csv``: a site, scope, rule and finding each.

    Args:
        validation: by site; a site without validation patients may be absent.
        test: by site. With two sites or more, all patients together are measured too, as ``pooled``.
        findings: names of the ``C`` findings.
        rules: to compare.
        run: for the rows, as is ``model``.
        model: which model.
        resamples: of patients, for the 95% intervals of what it costs on test; 0 gives none.
        seed: of the bootstrap.
    """
    several = len(test) > 1
    whole = _together(validation, len(findings))
    parts = []
    for site in sorted(test):
        own = validation.get(site)
        found = _arrays(own) if own is not None else _none(len(findings))
        scopes = {SITE: found, FEDERATION: whole} if several else {SITE: found}
        parts.append((site, _arrays(test[site]), scopes))
    if several:
        parts.append((POOLED, pooled_arrays([test[site] for site in sorted(test)]), {FEDERATION: whole}))
    rows = []
    for site, given, scopes in parts:
        about = {"run": run, "model": model, "site": site}
        rows += [{**about, **row} for row in _rows(given, scopes, rules, findings, resamples, seed)]
    table: pd.DataFrame = pd.DataFrame(rows, columns=list(THRESHOLD_COLUMNS))
    return table


_Arrays = tuple[Floats, Floats, npt.NDArray[np.int64]]


def _arrays(part: Scored) -> _Arrays:
    return part.scores, part.labels, part.patients


def _none(n_findings: int) -> _Arrays:
    return np.empty((0, n_findings)), np.empty((0, n_findings)), np.empty(0, dtype=np.int64)


def _together(parts: Mapping[str, Scored], n_findings: int) -> _Arrays:
    return pooled_arrays([parts[site] for site in sorted(parts)]) if parts else _none(n_findings)


def _rows(
    test: _Arrays,
    scopes: Mapping[str, _Arrays],
    rules: Sequence[RuleSettings],
    findings: Sequence[str],
    resamples: int,
    seed: int,
) -> list[dict[str, object]]:
    rows = []
    for scope, rule in product(scopes, rules):
        found = scopes[scope]
        thresholds = choose_thresholds(found[0], found[1], rule=rule.rule, target=rule.target)
        values, ends = _with_intervals(test, thresholds.values, resamples, seed)
        on_validation = _table(*found[:2], thresholds.values).sum(axis=0)
        for c, finding in enumerate(findings):
            row: dict[str, object] = {"scope": scope, "rule": rule.rule, "target": rule.target, "finding": finding}
            row |= {"threshold": thresholds.values[c]}
            row |= {f"val_{name}": float(value) for name, value in _numbers(on_validation[:, c]).items()}
            row |= _known(found[1], c, "val") | _known(test[1], c, "test")
            cells = values["cells"][:, c]
            told = not np.isnan(thresholds.values[c]) and _is_scored(test, c)
            row |= {f"test_{name}": int(cells[k]) if told else None for k, name in enumerate(_CELLS)}
            for name in COSTS:
                row[f"test_{name}"] = values[name][c]
                row[f"test_{name}_low"], row[f"test_{name}_high"] = (end[c] for end in ends[name])
            row["reason"] = _reason(thresholds, test, c)
            rows.append(row)
    return rows


def _known(labels: Floats, finding: int, split: str) -> dict[str, object]:
    column = labels[:, finding]
    return {
        f"{split}_n_positive": int((column == 1).sum()),
        f"{split}_n_annotated": int((~np.isnan(column)).sum()),
    }


def _is_scored(test: _Arrays, finding: int) -> bool:
    """Whether every image with a known label has a score."""
    return bool(np.isfinite(test[0][~np.isnan(test[1][:, finding]), finding]).all())


def _reason(thresholds: Thresholds, test: _Arrays, finding: int) -> str:
    if thresholds.reasons[finding]:
        return thresholds.reasons[finding]
    column = test[1][:, finding]
    if np.isnan(column).all():
        return "no annotated image in test"
    if not _is_scored(test, finding):
        return NOT_A_NUMBER
    lacking = [word for word, kind in (("positive", 1), ("negative", 0)) if not (column == kind).any()]
    return f"no {lacking[0]} in test" if lacking else ""


def _table(scores: Floats, labels: Floats, cut: Floats) -> Floats:
    """True and false positives and negatives image by image, ``[N, 4, C]``; nothing where there is no threshold."""
    with np.errstate(invalid="ignore"):
        called = scores >= cut
    usable = np.isfinite(scores) & ~np.isnan(cut)
    positive, negative = (labels == 1) & usable, (labels == 0) & usable
    cells = (positive & called, negative & called, positive & ~called, negative & ~called)
    return np.stack(cells, axis=1).astype(np.float64)


def _numbers(cells: Floats) -> dict[str, Floats]:
    """Metrics from cells ``[4, ...]``."""
    counts = Counts(*cells)
    return {name: THRESHOLD_METRICS[name](counts) for name in COSTS}


def _with_intervals(
    test: _Arrays, cut: Floats, resamples: int, seed: int
) -> tuple[dict[str, Floats], dict[str, tuple[Floats, Floats]]]:
    """Cells and metrics on test at some thresholds, and the ends of the metrics' intervals."""
    scores, labels, patients = test
    shape = (4, scores.shape[1])
    of_patients = by_patient(_table(scores, labels, cut).reshape(len(scores), -1), patients)
    cells = of_patients.sum(axis=0).reshape(shape)
    values = {"cells": cells, **_numbers(cells)}
    none = np.full(shape[1], np.nan)
    ends = dict.fromkeys(COSTS, (none, none))
    if resamples and len(of_patients) > 1:
        drawn = np.concatenate(list(resampled_sums(of_patients, resamples, seed))).reshape(-1, *shape)
        for name, draws in _numbers(np.moveaxis(drawn, 1, 0)).items():
            found = percentile_intervals(draws)
            told = ~np.isnan(values[name])
            ends[name] = (np.where(told, found.low, np.nan), np.where(told, found.high, np.nan))
    return values, ends
