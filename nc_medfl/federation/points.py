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

from nc_medfl.config import JobSettings
from nc_medfl.evaluation import Thresholds, choose_thresholds, read_metrics
from nc_medfl.evaluation.files import METRICS_CSV
from nc_medfl.evaluation.tables import ALL_SITES, THRESHOLD
from nc_medfl.inference.description import OperatingPoint
from nc_medfl.inference.scoring import POOLED
from nc_medfl.labels import load_vocabulary
from nc_medfl.metrics.calibration import Scaling, fit_temperature

Floats = npt.NDArray[np.float64]
Scored = tuple[Floats, Floats]


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


def _point(thresholds: Thresholds, rule: str, scaling: Scaling | None) -> OperatingPoint:
    n = len(thresholds.values)
    fitted = scaling is not None and not scaling.reason
    slope = scaling.slope if scaling is not None and fitted else 1.0
    return OperatingPoint(
        thresholds=tuple(None if np.isnan(v) else float(np.clip(v, 0.0, 1.0)) for v in thresholds.values),
        reasons=thresholds.reasons,
        rule=rule,
        calibration="temperature" if fitted else "none",
        slope=(slope,) * n,
        intercept=(0.0,) * n,
    )
