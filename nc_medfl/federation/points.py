"""Operating points of a model file: thresholds and calibration of each site, and of all patients pooled.

Thresholds are those of the run's ``metrics.csv``; where the sites' stores are on this machine, what is lacking there
is worked out from their validation splits, and one temperature a site besides (Guo et al., ICML 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize_scalar

from nc_medfl.config import JobSettings
from nc_medfl.evaluation import Thresholds, choose_thresholds, read_metrics
from nc_medfl.evaluation.files import METRICS_CSV
from nc_medfl.evaluation.tables import ALL_SITES, THRESHOLD
from nc_medfl.inference.description import OperatingPoint
from nc_medfl.inference.scoring import POOLED
from nc_medfl.labels import load_vocabulary

Floats = npt.NDArray[np.float64]
Scored = tuple[Floats, Floats]

_EDGE = 1e-12
#: Temperatures beyond these are no fit.
_HOTTEST = 20.0


def operating_points(run: Path, settings: JobSettings, validation: Mapping[str, Scored]) -> dict[str, OperatingPoint]:
    """Operating points by site, and ``pooled`` where all patients' scores are on this machine.

    Args:
        run: a run's folder; it may lack the table.
        settings: the job's; they say how thresholds are chosen.
        validation: scores and labels ``[N, C]`` of the sites whose stores are here.
    """
    findings = load_vocabulary(settings.vocabulary).findings
    rule = settings.evaluation.threshold
    found = _of_run(run, findings)
    scored = dict(validation)
    if scored:
        parts = list(scored.values())
        scored[POOLED] = (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
    for site, (scores, labels) in scored.items():
        if site not in found:
            found[site] = choose_thresholds(scores, labels, rule=rule)
    return {
        site: _point(thresholds, rule, fit_temperature(*scored[site]) if site in scored else None)
        for site, thresholds in sorted(found.items())
    }


def _of_run(run: Path, findings: tuple[str, ...]) -> dict[str, Thresholds]:
    if not (run / METRICS_CSV).is_file():
        return {}
    table = read_metrics(run)
    rows = table[(table["metric"] == THRESHOLD) & (table["group"] == "all") & (table["site"] != ALL_SITES)]
    out = {}
    for site, part in rows.groupby("site", sort=True):
        named = part.drop_duplicates("finding").set_index("finding")
        if set(findings) <= set(named.index):
            out[str(site)] = _thresholds(named.loc[list(findings)])
    return out


def _thresholds(rows: pd.DataFrame) -> Thresholds:
    values = rows["value"].to_numpy(dtype=np.float64)
    texts = [str(reason) for reason in rows["reason"]]
    return Thresholds(values, tuple("" if v == v else t or "none chosen" for v, t in zip(values, texts, strict=True)))


def fit_temperature(scores: Floats, labels: Floats) -> float | None:
    """The temperature that makes known labels most likely; None where there is none to be had.

    Args:
        scores: of validation, ``[N, C]``.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.
    """
    known = ~np.isnan(labels)
    p, y = np.clip(scores[known], _EDGE, 1 - _EDGE), labels[known]
    if not (y == 1).any() or not (y == 0).any():
        return None
    z = np.log(p) - np.log1p(-p)

    def loss(log_temperature: float) -> float:
        scaled = z * np.exp(-log_temperature)
        return float(np.mean(np.logaddexp(0.0, scaled) - y * scaled))

    bound = float(np.log(_HOTTEST))
    best = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-9})
    # At either end there is no best one: no error to learn from, or scores that rank the wrong way round.
    return None if abs(float(best.x)) > bound - 1e-3 else float(np.exp(best.x))


def _point(thresholds: Thresholds, rule: str, temperature: float | None) -> OperatingPoint:
    n = len(thresholds.values)
    slope = 1.0 if temperature is None else 1.0 / temperature
    return OperatingPoint(
        thresholds=tuple(None if np.isnan(v) else float(np.clip(v, 0.0, 1.0)) for v in thresholds.values),
        reasons=thresholds.reasons,
        rule=rule,
        calibration="none" if temperature is None else "temperature",
        slope=(slope,) * n,
        intercept=(0.0,) * n,
    )
