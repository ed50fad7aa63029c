"""How ``nc-medfl evaluate`` is to measure: options that take the place of the run's own settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nc_medfl.config import EvaluationSettings
from nc_medfl.errors import UserError
from nc_medfl.settings import parse

ThresholdRule = Annotated[
    str | None,
    typer.Option(
        "--threshold-rule",
        metavar="RULE",
        help="How thresholds are chosen on validation: youden, sensitivity, ppv, f1 or fixed (default: the run's).",
    ),
]
TargetSensitivity = Annotated[
    float | None, typer.Option("--target-sensitivity", help="Share of positives to find, for the rule 'sensitivity'.")
]
TargetPpv = Annotated[float | None, typer.Option("--target-ppv", help="Share of alarms to be right, for 'ppv'.")]
FixedThreshold = Annotated[float | None, typer.Option("--fixed-threshold", help="The threshold of the rule 'fixed'.")]
Calibrate = Annotated[
    str | None,
    typer.Option(
        "--calibrate",
        metavar="METHOD",
        help="Scale each site's scores before measuring, fitted on its validation: none, temperature or platt.",
    ),
]
Groups = Annotated[
    str | None,
    typer.Option("--groups", help="What to group patients by, with commas: sex,age,view,maker; or none."),
]
MinGroup = Annotated[int | None, typer.Option("--min-group", help="Withhold groups of fewer patients.")]
Resamples = Annotated[int | None, typer.Option("--resamples", help="Of patients, for the intervals; 0: none.")]
Interval = Annotated[
    str | None,
    typer.Option("--interval", metavar="KIND", help="How ends are read from the resamples: percentile or bca."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Of the resamples (default: the run's, or 0).")]

#: Names of the settings that the options take the place of, and the options' own.
_OPTIONS = {
    "threshold": "--threshold-rule",
    "target_sensitivity": "--target-sensitivity",
    "target_ppv": "--target-ppv",
    "fixed_threshold": "--fixed-threshold",
    "calibrate": "--calibrate",
    "groups": "--groups",
    "min_group": "--min-group",
    "resamples": "--resamples",
    "interval": "--interval",
}


def overridden(base: EvaluationSettings, given: dict[str, Any]) -> EvaluationSettings:
    """Settings with the options that were given in place of their own.

    Args:
        base: the run's, or the defaults.
        given: by setting; None where the option was left out.

    Raises:
        UserError: if one has a value that can't be.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    if "groups" in wanted:
        texts = [text.strip() for text in str(wanted["groups"]).split(",")]
        wanted["groups"] = () if texts == ["none"] else tuple(texts)
    settings = base
    for name, value in wanted.items():
        try:
            changed = {**settings.model_dump(mode="python"), name: value}
            settings = parse(EvaluationSettings, changed, where="evaluate")
        except UserError as error:
            shown = ",".join(value) if isinstance(value, tuple) else value
            raise UserError(f"{_OPTIONS[name]} {shown}: {_why(str(error))}") from error
    return settings


def _why(text: str) -> str:
    """What the settings say of a value, without their own place in front."""
    return text.split("': ", 1)[-1].split(": ", 1)[-1]
