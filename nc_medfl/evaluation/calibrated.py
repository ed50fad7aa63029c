"""``calibration.csv`` and ``reliability.csv``: what temperature and Platt scaling of a site's scores change on test.

A site's temperature is one number for all its findings, from all known pairs of its validation split; Platt's slope
and intercept are two a finding. Test labels play no part in either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.evaluation.patients import Floats, Scored, by_patient, resampled_sums
from nc_medfl.metrics.bootstrap import percentile_intervals
from nc_medfl.metrics.calibration import Scaling, fit_platt, fit_temperature, log_losses, reliability_curve
from nc_medfl.metrics.classification import NO_ANNOTATED, NO_FINDING_DEFINED, NOT_A_NUMBER, equal_mass_bins
from nc_medfl.metrics.histograms import EDGES, bins_of

NONE, TEMPERATURE, PLATT = "none", "temperature", "platt"
METHODS = (NONE, TEMPERATURE, PLATT)
MACRO = "macro"
#: What is measured before and after; less is better.
ERRORS = ("brier", "ece", "log_loss")

#: Columns of ``calibration.csv``, in order.
CALIBRATION_COLUMNS = (
    "run",
    "model",
    "site",
    "method",
    "finding",
    "temperature",
    "slope",
    "intercept",
    "val_n_positive",
    "val_n_annotated",
    "test_n_positive",
    "test_n_annotated",
    *(f"test_{name}{end}" for name in ERRORS for end in ("", "_low", "_high")),
    "reason",
)

#: Columns of ``reliability.csv``, in order.
RELIABILITY_COLUMNS = (
    "run",
    "model",
    "site",
    "method",
    "finding",
    "bin",
    "n",
    "n_positive",
    "lowest",
    "highest",
    "mean_score",
    "observed",
    "low",
    "high",
)

_BINS = 10


@dataclass(frozen=True)
class SiteScaling:
    """A site's maps, a finding each.

    Attributes:
        method: ``none``, ``temperature`` or ``platt``.
        maps: of the ``C`` findings.
    """

    method: str
    maps: tuple[Scaling, ...]

    def apply(self, scores: Floats) -> Floats:
        """Scaled scores ``[N, C]``; NaN in the columns of findings for which nothing could be fitted."""
        if self.method == NONE:
            return scores
        columns = [found.apply(scores[:, c]) for c, found in enumerate(self.maps)]
        return np.stack(columns, axis=1) if columns else scores


def fit_scaling(scores: Floats, labels: Floats, method: str) -> SiteScaling:
    """Fit a site's maps on its validation split.

    Args:
        scores: of validation, ``[N, C]``.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.
        method: ``none``, ``temperature`` (one number for all findings) or ``platt`` (two a finding).

    Raises:
        ValueError: for another method.
    """
    n_findings = scores.shape[1]
    if method == NONE:
        return SiteScaling(NONE, (Scaling(1.0, 0.0),) * n_findings)
    if method == TEMPERATURE:
        return SiteScaling(TEMPERATURE, (fit_temperature(scores, labels),) * n_findings)
    if method == PLATT:
        return SiteScaling(PLATT, tuple(fit_platt(scores[:, c], labels[:, c]) for c in range(n_findings)))
    raise ValueError(f"unknown method '{method}'; use one of {', '.join(METHODS)}")


def calibration_tables(
    validation: Mapping[str, Scored],
    test: Mapping[str, Scored],
    findings: Sequence[str],
    *,
    run: str,
    model: str,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of ``calibration.csv`` and of ``reliability.csv``, before and after, at every site.

    Args:
        validation: by site; a site without validation patients may be absent.
        test: by site.
        findings: names of the ``C`` findings; ``macro`` is the mean over those where a number is defined.
        run: for the rows, as is ``model``.
        model: which model.
        resamples: of patients, for the 95% intervals; 0 gives none.
        seed: of the bootstrap.
    """
    errors: list[dict[str, object]] = []
    points: list[dict[str, object]] = []
    empty = np.empty((0, len(findings)))
    for site in sorted(test):
        own = validation.get(site)
        known = (own.scores, own.labels) if own is not None else (empty, empty)
        for method in METHODS:
            about = {"run": run, "model": model, "site": site, "method": method}
            scaling = fit_scaling(*known, method)
            scores = scaling.apply(test[site].scores)
            rows = _error_rows(scores, test[site], scaling, findings, resamples, seed)
            errors += [about | _of_validation(known[1], c) | row for c, row in enumerate(rows)]
            points += [about | row for row in _points(scores, test[site].labels, findings)]
    return (
        pd.DataFrame(errors, columns=list(CALIBRATION_COLUMNS)),
        pd.DataFrame(points, columns=list(RELIABILITY_COLUMNS)),
    )


def _of_validation(labels: Floats, column: int) -> dict[str, object]:
    given = labels[:, column] if column < labels.shape[1] else labels
    return {"val_n_positive": int((given == 1).sum()), "val_n_annotated": int((~np.isnan(given)).sum())}


def _error_rows(
    scores: Floats, test: Scored, scaling: SiteScaling, findings: Sequence[str], resamples: int, seed: int
) -> list[dict[str, object]]:
    """A row a finding, and ``macro`` last."""
    labels = test.labels
    values, low, high = _errors(scores, labels, test.patients, resamples, seed)
    rows = []
    for c, finding in enumerate((*findings, MACRO)):
        single = c < len(findings)
        given = labels[:, c] if single else labels
        row: dict[str, object] = {"finding": finding, **_numbers_of(scaling, c if single else None)}
        row |= {"test_n_positive": int((given == 1).sum()), "test_n_annotated": int((~np.isnan(given)).sum())}
        for name in ERRORS:
            row |= {f"test_{name}": values[name][c], f"test_{name}_low": low[name][c]}
            row[f"test_{name}_high"] = high[name][c]
        row["reason"] = _reason(scaling, scores, labels, c) if single else _macro_reason(values["brier"][:-1])
        rows.append(row)
    return rows


def _numbers_of(scaling: SiteScaling, finding: int | None) -> dict[str, object]:
    """Temperature, slope and intercept as the table has them; a macro row has the site's temperature alone."""
    if scaling.method == NONE or not scaling.maps:
        return {}
    if scaling.method == TEMPERATURE:
        return {"temperature": scaling.maps[0].temperature}
    if finding is None:
        return {}
    return {"slope": scaling.maps[finding].slope, "intercept": scaling.maps[finding].intercept}


def _reason(scaling: SiteScaling, scores: Floats, labels: Floats, column: int) -> str:
    if scaling.maps[column].reason:
        return scaling.maps[column].reason
    known = ~np.isnan(labels[:, column])
    if not known.any():
        return f"{NO_ANNOTATED} in test"
    return "" if np.isfinite(scores[known, column]).all() else NOT_A_NUMBER


def _macro_reason(values: Floats) -> str:
    defined = int((~np.isnan(values)).sum())
    return f"mean over {defined} of {len(values)} findings" if defined else NO_FINDING_DEFINED


_Named = dict[str, Floats]


def _errors(
    scores: Floats,
    labels: Floats,
    patients: npt.NDArray[np.int64],
    resamples: int,
    seed: int,
) -> tuple[_Named, _Named, _Named]:
    """Brier score, ECE and log loss of each finding and their mean, ``[C + 1]``, with the ends of their intervals."""
    n_findings = scores.shape[1]
    columns = [_parts(scores[:, c], labels[:, c]) for c in range(n_findings)]
    width = 3 + _BINS
    table = np.concatenate(columns, axis=1) if columns else np.zeros((len(scores), 0))
    nans = np.isnan(table).reshape(len(scores), n_findings, width)
    broken: npt.NDArray[np.bool_] = np.any(nans, axis=(0, 2))
    of_patients = by_patient(np.nan_to_num(table), patients)
    values = _quotients(of_patients.sum(axis=0).reshape(1, n_findings, width), broken)
    whole = {name: value[0] for name, value in values.items()}
    none = np.full(n_findings + 1, np.nan)
    low, high = dict.fromkeys(ERRORS, none), dict.fromkeys(ERRORS, none)
    if resamples and len(of_patients) > 1:
        drawn = np.concatenate(list(resampled_sums(of_patients, resamples, seed))).reshape(-1, n_findings, width)
        for name, draws in _quotients(drawn, broken).items():
            found = percentile_intervals(draws)
            low[name] = np.where(np.isnan(whole[name]), np.nan, found.low)
            high[name] = np.where(np.isnan(whole[name]), np.nan, found.high)
    return whole, low, high


def _parts(scores: Floats, labels: Floats) -> Floats:
    """What each image adds to a finding's sums: known, squared error, log loss, residual in its bin, ``[N, 3 + bins]``.

    NaN where a known label has no finite score.
    """
    known = ~np.isnan(labels)
    out = np.zeros((len(scores), 3 + _BINS))
    rows = np.flatnonzero(known)
    p, y = scores[rows], labels[rows]
    out[rows, 0], out[rows, 1], out[rows, 2] = 1.0, np.square(p - y), log_losses(p, y)
    if np.isfinite(p).all():
        out[rows, 3 + equal_mass_bins(p, _BINS)] = p - y
    return out


def _quotients(sums: Floats, broken: npt.NDArray[np.bool_]) -> _Named:
    """Errors from sums ``[B, C, 3 + bins]``, with their mean over findings last, ``[B, C + 1]``."""
    known = np.where(broken, 0.0, sums[..., 0])
    above = {"brier": sums[..., 1], "ece": np.abs(sums[..., 3:]).sum(axis=-1), "log_loss": sums[..., 2]}
    out = {}
    for name, part in above.items():
        value = np.divide(part, known, out=np.full(known.shape, np.nan), where=known > 0)
        defined = ~np.isnan(value)
        n = defined.sum(axis=1)
        total = np.where(defined, value, 0.0).sum(axis=1)
        macro = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
        out[name] = np.concatenate([value, macro[:, None]], axis=1)
    return out


def _points(scores: Floats, labels: Floats, findings: Sequence[str]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for c, finding in enumerate(findings):
        if np.isnan(scores[:, c]).any():
            continue
        for number, point in enumerate(reliability_curve(scores[:, c], labels[:, c], _BINS)):
            # No score of an image: the ends of the steps that the lowest and the highest lie in.
            at = bins_of([point.lowest, point.highest])
            ends = {"lowest": float(EDGES[at[0]]), "highest": float(EDGES[at[1] + 1])}
            rows.append({"finding": finding, "bin": number, **vars(point), **ends})
    return rows
