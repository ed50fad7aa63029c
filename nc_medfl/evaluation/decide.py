"""What stands beside ``metrics.csv`` so that somebody can act on it: thresholds, calibration, groups and gaps.

Everything that is chosen or fitted is chosen and fitted on validation; test is only measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.config import EvaluationSettings
from nc_medfl.evaluation.calibrated import calibration_tables, fit_scaling
from nc_medfl.evaluation.groups import FEW_IN_GROUP, POOLED, fairness_table, group_rows, rare_in_groups
from nc_medfl.evaluation.patients import Scored, ScoredSplit, pooled_arrays
from nc_medfl.evaluation.result_tables import (
    CALIBRATION_CSV,
    FAIRNESS_CSV,
    RELIABILITY_CSV,
    THRESHOLDS_CSV,
    write_rows,
)
from nc_medfl.evaluation.score_histograms import SCORE_HISTOGRAMS_CSV, score_histograms
from nc_medfl.evaluation.tables import as_table, evaluate_site
from nc_medfl.evaluation.threshold_costs import RuleSettings, all_rules, threshold_table
from nc_medfl.evaluation.thresholds import Thresholds, choose_thresholds
from nc_medfl.labels import Vocabulary
from nc_medfl.metrics.classification import NOT_A_NUMBER


@dataclass(frozen=True, eq=False)
class SiteScores:
    """A model's scores at one site.

    Attributes:
        validation: to choose and to fit on; it may be empty.
        test: to measure on.
        attributes: of the test images, by name (``sex``, ``age`` in years, ``view``, ``maker``), where known.
    """

    validation: Scored
    test: Scored
    attributes: Mapping[str, npt.ArrayLike] = field(default_factory=dict)


def rule_of(settings: EvaluationSettings) -> RuleSettings:
    """The rule that ``metrics.csv`` is measured under."""
    targets = {
        "sensitivity": settings.target_sensitivity,
        "ppv": settings.target_ppv,
        "fixed": settings.fixed_threshold,
    }
    return RuleSettings(settings.threshold, targets.get(settings.threshold))


def chosen_thresholds(validation: Scored, settings: EvaluationSettings) -> Thresholds:
    """Thresholds by the job's rule."""
    rule = rule_of(settings)
    return choose_thresholds(validation.scores, validation.labels, rule=rule.rule, target=rule.target)


def calibrate(validation: Scored, test: Scored, settings: EvaluationSettings) -> tuple[Scored, Scored, tuple[str, ...]]:
    """Scale a site's scores as the job says, by maps that are fitted on its validation split.

    Returns:
        Both splits, and for each finding why its scores could not be scaled (they are then NaN), else ``""``.
    """
    scaling = fit_scaling(validation.scores, validation.labels, settings.calibrate)
    both = [ScoredSplit(scaling.apply(part.scores), part.labels, part.patients) for part in (validation, test)]
    return both[0], both[1], tuple(found.reason for found in scaling.maps)


def say_uncalibrated(
    rows: pd.DataFrame, sites: Mapping[str, SiteScores], findings: Sequence[str], settings: EvaluationSettings
) -> pd.DataFrame:
    """Rows that name why a finding's scores could not be scaled, where else they would say that there is no number.

    Args:
        rows: with the columns ``site``, ``finding`` and ``reason``; not changed.
        sites: scores by site, as the model gives them.
        findings: names of the ``C`` findings.
        settings: whether scores are scaled.
    """
    told: dict[tuple[str, str], str] = {}
    for site, found in sorted(sites.items()):
        for finding, why in zip(findings, calibrate(found.validation, found.test, settings)[2], strict=True):
            if why:
                told[(site, finding)] = f"not calibrated: {why}"
                told.setdefault((POOLED, finding), f"not calibrated at {site}: {why}")
    if not told:
        return rows
    rows = rows.copy()
    places = zip(rows["site"], rows["finding"], rows["reason"], strict=True)
    rows["reason"] = [
        told.get((site, finding), reason) if NOT_A_NUMBER in reason else reason for site, finding, reason in places
    ]
    return rows


def group_metrics(
    sites: Mapping[str, SiteScores],
    vocabulary: Vocabulary,
    settings: EvaluationSettings,
    *,
    run: str,
    model: str,
    seed: int = 0,
    min_positives: int = 0,
    places: Collection[str] | None = None,
) -> pd.DataFrame:
    """Rows of ``metrics.csv`` for groups of patients, at each site and over all sites' patients.

    A site's groups are measured at that site's thresholds; those of all patients together at thresholds chosen on
    all validation patients together.

    Args:
        sites: scores by site.
        vocabulary: names of the findings.
        settings: which groups, how large they must be, and how to measure.
        run: for the rows, as is ``model``.
        model: which model.
        seed: of the bootstrap.
        min_positives: findings with fewer positives in a group are withheld there.
        places: names of sites, or ``pooled``; None takes all.
    """
    parts: list[pd.DataFrame] = []
    for site, found in with_pooled(sites, settings).items():
        if places is not None and site not in places:
            continue
        thresholds = chosen_thresholds(found.validation, settings)
        about = {"run": run, "model": model, "site": site, "split": "test"}
        wanted: dict[str, npt.ArrayLike] = {
            name: found.attributes[name] for name in settings.groups if name in found.attributes
        }
        rare = rare_in_groups(wanted, found.test.labels, min_positives) if min_positives else {}

        def evaluate(
            mask: npt.NDArray[np.bool_],
            group: str,
            found: SiteScores = found,
            thresholds: Thresholds = thresholds,
            about: Mapping[str, str] = about,
            rare: Mapping[str, npt.NDArray[np.bool_]] = rare,
        ) -> pd.DataFrame:
            hidden = rare.get(group, np.zeros(len(vocabulary), dtype=bool))
            table: pd.DataFrame = evaluate_site(
                found.test.scores[mask],
                np.where(hidden, np.nan, found.test.labels[mask]),
                found.test.patients[mask],
                thresholds=thresholds,
                vocabulary=vocabulary,
                group=group,
                resamples=settings.resamples,
                seed=seed,
                interval=settings.interval,
                run=about["run"],
                model=about["model"],
                site=about["site"],
                split=about["split"],
            )
            names = [name for name, few in zip(vocabulary.findings, hidden, strict=True) if few]
            table.loc[table["finding"].isin(names), "reason"] = FEW_IN_GROUP
            return table

        patients = found.test.patients
        parts += group_rows(wanted, patients, vocabulary.findings, evaluate, about=about, min_group=settings.min_group)
    rows = as_table(pd.concat(parts, ignore_index=True) if parts else [])
    return say_uncalibrated(rows, sites, vocabulary.findings, settings)


def with_pooled(sites: Mapping[str, SiteScores], settings: EvaluationSettings) -> dict[str, SiteScores]:
    """The sites, with scores scaled if the job says so, and all of them together where there are several."""
    scaled = {}
    for name, found in sorted(sites.items()):
        validation, test, _ = calibrate(found.validation, found.test, settings)
        scaled[name] = SiteScores(validation, test, found.attributes)
    if len(scaled) < 2:
        return scaled
    together = [
        ScoredSplit(*pooled_arrays([getattr(found, split) for found in scaled.values()]))
        for split in ("validation", "test")
    ]
    return {**scaled, POOLED: SiteScores(together[0], together[1], _pooled_attributes(scaled))}


def _pooled_attributes(sites: Mapping[str, SiteScores]) -> dict[str, npt.ArrayLike]:
    names = {name for found in sites.values() for name in found.attributes}
    whole: dict[str, npt.ArrayLike] = {}
    for name in sorted(names):
        parts = [found.attributes.get(name, [None] * len(found.test.patients)) for found in sites.values()]
        whole[name] = np.concatenate([np.asarray(part, dtype=object) for part in parts])
    return whole


def decision_tables(
    sites: Mapping[str, SiteScores],
    metrics: pd.DataFrame,
    vocabulary: Vocabulary,
    settings: EvaluationSettings,
    *,
    run: str,
    model: str,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The tables beside ``metrics.csv``, by file name.

    Args:
        sites: scores by site, as the model gives them; calibration is measured on these whatever the job says.
        metrics: all rows of ``metrics.csv``, groups among them; who is served worst follows from them.
        vocabulary: names of the findings.
        settings: targets of the rules, calibration, resamples.
        run: for the rows, as is ``model``.
        model: which model.
        seed: of the bootstrap.
    """
    findings = vocabulary.findings
    scaled = {name: found for name, found in with_pooled(sites, settings).items() if name != POOLED}
    rules = all_rules(settings.target_sensitivity, settings.target_ppv, settings.fixed_threshold)
    thresholds = threshold_table(
        {name: found.validation for name, found in scaled.items()},
        {name: found.test for name, found in scaled.items()},
        findings,
        rules=rules,
        run=run,
        model=model,
        resamples=settings.resamples,
        seed=seed,
    )
    errors, points = calibration_tables(
        {name: found.validation for name, found in sites.items()},
        {name: found.test for name, found in sites.items()},
        findings,
        run=run,
        model=model,
        resamples=settings.resamples,
        seed=seed,
    )
    return {
        THRESHOLDS_CSV: say_uncalibrated(thresholds, sites, findings, settings),
        CALIBRATION_CSV: errors,
        RELIABILITY_CSV: points,
        FAIRNESS_CSV: fairness_table(metrics),
        SCORE_HISTOGRAMS_CSV: score_histograms(
            {name: found.test for name, found in scaled.items()}, findings, run=run, model=model
        ),
    }


def write_decisions(tables: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write the tables into a folder, each whole or not at all."""
    return [write_rows(table, folder / name) for name, table in tables.items()]
