"""What a site tells of the chosen model: numbers of its test patients and of groups of them, under its own rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.config import JobSettings, PrivacySettings, SiteConfig
from nc_medfl.evaluation.decide import SiteScores, decision_tables, group_metrics
from nc_medfl.evaluation.patients import Scored, ScoredSplit
from nc_medfl.evaluation.result_tables import CALIBRATION_CSV, RELIABILITY_CSV, THRESHOLDS_CSV
from nc_medfl.evaluation.tables import as_table
from nc_medfl.federation.measure import about, measure
from nc_medfl.federation.score_counts import counts_text

Rows = list[dict[str, Any]]

WITHHELD = "withheld by the site: too few positives"
_SENT = {"thresholds": THRESHOLDS_CSV, "calibration": CALIBRATION_CSV, "reliability": RELIABILITY_CSV}


@dataclass(frozen=True)
class FinalTest:
    """What a site tells of the chosen model.

    Attributes:
        rows: its metrics on the test split here, of all patients and of groups.
        histograms: counts of scores in bins, as the text that travels; None where the site sends none.
        tables: what each threshold costs, calibration and its points, by name (``thresholds``, ``calibration``,
            ``reliability``).
    """

    rows: Rows
    histograms: str | None
    tables: Mapping[str, Rows] = field(default_factory=dict)


def final_test(
    validation: Scored,
    test: Scored,
    attributes: Mapping[str, npt.ArrayLike],
    settings: JobSettings,
    config: SiteConfig,
) -> FinalTest:
    """Measure at the site, and leave out what its privacy settings keep there.

    Args:
        validation: scores and labels to choose and to fit on.
        test: scores and labels to measure on.
        attributes: of the test images, by name (``sex``, ``age``, ``view``, ``maker``).
        settings: the job's.
        config: the site's own. ``privacy`` says how many positives a finding and how many patients a group must have.
    """
    privacy, what = config.privacy, about(settings)
    findings = what.vocabulary.findings
    hidden = too_rare(test.labels, privacy)
    known, found = without(validation, hidden), without(test, hidden)
    rare = {name for name, few in zip(findings, hidden, strict=True) if few}
    rows = say_withheld(as_rows(measure(known, found, settings, config.name)), rare)
    own = {config.name: SiteScores(known, found, attributes)}
    named = {"run": what.run, "model": what.model}
    min_group = max(what.settings.min_group, privacy.min_group_patients)
    in_groups = what.settings.model_copy(update={"min_group": min_group})
    groups = group_metrics(
        own, what.vocabulary, in_groups, seed=what.seed, min_positives=privacy.min_test_positives, **named
    )
    rows += say_withheld(as_rows(groups), rare)
    parts = {"val": validation, "test": test}
    histograms = counts_text(parts, findings, privacy) if privacy.allow_histograms else None
    made = decision_tables(own, as_table(rows), what.vocabulary, what.settings, seed=what.seed, **named)
    tables = {name: _sendable(made[file], name, privacy) for name, file in _SENT.items()}
    return FinalTest(rows, histograms, {name: say_withheld(table, rare) for name, table in tables.items()})


def _sendable(table: pd.DataFrame, name: str, privacy: PrivacySettings) -> Rows:
    """A table's rows without what the server knows; a curve is a histogram of scores, so it goes under their rules."""
    if name == "reliability":
        table = table[table["n"] >= privacy.min_bin_patients] if privacy.allow_histograms else table.iloc[:0]
    else:
        table = _without_rare_validation(table, privacy.min_test_positives)
    return as_rows(table.drop(columns=["run", "model"]))


def _without_rare_validation(table: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """The same, without what a finding with few positives of the validation split did there, and how many they are.

    The mean over findings counts all of them together, so its count goes with any finding's.
    """
    few = table["val_n_positive"].between(1, minimum - 1)
    macro = (table["finding"] == "macro") & bool(few.any())
    out: pd.DataFrame = table.copy()
    told = [name for name in table.columns if name.startswith("val_") and name != "val_n_annotated"]
    out[told] = out[told].astype(object)
    out.loc[few | macro, told] = None
    return out


def too_rare(labels: npt.NDArray[np.float64], privacy: PrivacySettings) -> npt.NDArray[np.bool_]:
    """Findings whose metrics stay, since too few patients' images are behind them, ``[C]``."""
    few: npt.NDArray[np.bool_] = (labels == 1).sum(axis=0) < privacy.min_test_positives
    return few


def without(found: Scored, hidden: npt.NDArray[np.bool_]) -> ScoredSplit:
    """Scores in which some findings are unknown everywhere, so that nothing of them enters a mean either."""
    labels = found.labels.copy()
    labels[:, hidden] = np.nan
    return ScoredSplit(found.scores, labels, found.patients)


def say_withheld(rows: Rows, findings: set[str]) -> Rows:
    """The same rows; those of some findings give the site's rule as their reason."""
    return [{**row, "reason": WITHHELD} if row["finding"] in findings and "reason" in row else row for row in rows]


def as_rows(table: pd.DataFrame) -> Rows:
    """Rows with None for NaN, as JSON has it."""
    rows: Rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return rows
