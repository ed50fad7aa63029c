"""``nc-medfl predict``: probabilities of each finding for files or a store."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nc_medfl.cli.models import Files, Model, open_model
from nc_medfl.errors import UserError

if TYPE_CHECKING:
    from nc_medfl.inference.model_file import PortableModel
    from nc_medfl.inference.predict import Prediction

Site = Annotated[
    str | None, typer.Option(help="Whose thresholds and calibration (default: those of all patients pooled).")
]
Split = Annotated[str | None, typer.Option(help="Of stores: train, val or test (default: all).")]


def predict(
    model: Model,
    files: Files,
    site: Site = None,
    split: Split = None,
    out: Annotated[Path | None, typer.Option(help="Write a CSV file too, a row a file and finding.")] = None,
    dicom_sr: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a DICOM structured report a DICOM file; it names the patient: keep it at the site.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a file.")] = False,
) -> None:
    """Say how probable each finding is in some radiographs. Research only: not a medical device.

    Example: `nc-medfl predict demo-run film.dcm --json`
    """
    from nc_medfl.inference.predict import predict_each, write_csv

    if split not in (None, "train", "val", "test"):
        raise UserError(f"--split {split}: there are train, val and test.")
    loaded = open_model(model)
    if dicom_sr is not None:
        from nc_medfl.inference.structured_report import make_folder

        make_folder(dicom_sr)
    outcomes: Counter[str] = Counter()

    def each(prediction: Prediction) -> None:
        _tell(prediction, loaded, site, as_json)
        outcomes[_finish(prediction, loaded, dicom_sr)] += 1

    predictions = predict_each(loaded, files, site=site, split=split)
    if out is not None:
        write_csv(out, predictions, each)
        if not as_json:
            typer.echo(str(out))
    else:
        for prediction in predictions:
            each(prediction)
    failed = sum(outcomes.values()) - outcomes["ok"]
    if failed:
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()) if outcome != "ok")
        raise UserError(f"{failed} of {sum(outcomes.values())} could not be answered ({told}). See the lines above.")


def _finish(prediction: Prediction, model: PortableModel, folder: Path | None) -> str:
    """Write the structured report, if asked for; the outcome."""
    if folder is None or prediction.answer is None:
        return prediction.given.outcome
    from nc_medfl.inference.structured_report import write_report_of

    try:
        typer.echo(str(write_report_of(prediction, model, folder)), err=True)
    except UserError as error:
        typer.echo(f"nc-medfl: {error}", err=True)
        return "no_structured_report"
    return prediction.given.outcome


def _tell(prediction: Prediction, model: PortableModel, site: str | None, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(prediction.to_json(model, site), allow_nan=False))
        return
    for line in _lines(prediction):
        typer.echo(line)


def _lines(prediction: Prediction) -> list[str]:
    from nc_medfl.inference.predict import shown

    given, answer = prediction.given, prediction.answer
    name = shown(given.file) + (f"  {given.sample_id}" if given.sample_id else "")
    if answer is None:
        return [f"{name}: {given.outcome}: {given.detail}"]
    lines = [name]
    lines += [f"  note: {remark}" for remark in given.remarks]
    if answer.likeness is not None and answer.likeness.flagged:
        unlike = answer.likeness
        lines.append(f"  UNLIKE THE TRAINING DATA ({unlike.score:.1f}, limit {unlike.limit:.1f}): {unlike.reason}")
    width = max(len(f.finding) for f in answer.findings)
    for f in answer.findings:
        limit = f"no threshold: {f.reason}" if f.threshold is None else f"threshold {f.threshold:.3f}"
        called = "  PRESENT" if f.positive else ""
        lines.append(f"  {f.finding:<{width}}  {f.probability:.3f}  ({limit}){called}")
    return lines
