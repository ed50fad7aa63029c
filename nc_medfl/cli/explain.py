"""``nc-medfl explain``: where a model looked in some radiographs, and how far such maps can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nc_medfl.cli.console import emit, note, progress_bar, warn
from nc_medfl.cli.models import Files, Model, open_model
from nc_medfl.cli.options import AsJson
from nc_medfl.errors import UserError

if TYPE_CHECKING:
    from nc_medfl.inference.model_file import PortableModel


def explain(
    model: Model,
    files: Files,
    out: Annotated[Path, typer.Option(help="Folder for the page, the overlays and the raw maps, or the scores.")],
    findings: Annotated[
        str | None,
        typer.Option(help="Names, with commas between them (default: those called present, else the top 3)."),
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Whose thresholds and calibration (default: those of all patients pooled).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of stores: train, val or test (--score: test).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Explain this many images at most.")] = 50,
    score: Annotated[
        bool, typer.Option("--score", help="Of stores: write deletion.csv and, with --boxes, pointing.csv.")
    ] = False,
    boxes: Annotated[
        list[Path] | None,
        typer.Option(metavar="CSV", help="Where findings lie (NIH's BBox_List_2017.csv), one a store, in their order."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of patients behind an interval.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of random orders and resamples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show where the model looked in some radiographs. Research only: not a medical device.

    Example: `nc-medfl explain demo-run film.dcm --out explained`

    Example: `nc-medfl explain demo-run store --score --boxes boxes.csv --out scores`
    """
    if split not in (None, "train", "val", "test"):
        raise UserError(f"--split {split}: there are train, val and test.")
    if boxes and not score:
        raise UserError("--boxes: only with --score. Add it, or leave --boxes out.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file. Give --out a folder.")
    loaded = open_model(model)
    if score:
        from nc_medfl.inference.explain_scores import score_stores

        stores = [Path(name) for name in files]
        with progress_bar("leaving tokens out") as advance:
            paths = score_stores(
                loaded,
                stores,
                split or "test",
                out,
                boxes=boxes or [],
                resamples=resamples,
                seed=seed,
                progress=advance,
            )
        emit({"files": [str(path) for path in paths]}, [str(path) for path in paths], as_json)
        return
    names = names_of(findings or "", loaded.description.findings)
    if findings is not None and not names:
        raise UserError("--findings: names none. Name one or more, or leave it out.")
    _explain(loaded, files, out, names, site, split, limit, as_json)


def names_of(given: str, known: Sequence[str]) -> list[str]:
    """Findings between commas; a finding's own name may hold some."""
    found, rest = [], given.strip()
    while rest:
        whole = [name for name in known if f"{rest},".startswith(f"{name},")]
        name = max(whole, key=len, default=rest.partition(",")[0])
        found.append(name.strip())
        rest = rest[len(name) + 1 :].strip()
    return [name for name in found if name]


def _explain(
    model: PortableModel,
    files: list[str],
    out: Path,
    findings: list[str],
    site: str | None,
    split: str | None,
    limit: int,
    as_json: bool,
) -> None:
    from itertools import islice

    from nc_medfl.inference.explain_pages import ExplainWriter, explain_each
    from nc_medfl.inference.predict import predict_each, shown

    writer = ExplainWriter(model, out, findings)
    told: list[dict[str, Any]] = []
    predictions = predict_each(model, files, site=site, split=split)
    for prediction, number in explain_each(writer, islice(predictions, limit)):
        given, answer = prediction.given, prediction.answer
        line: dict[str, Any] = {"image": number, "file": shown(given.file), "outcome": given.outcome}
        if given.sample_id:
            line["sample_id"] = given.sample_id
        if given.detail:
            line["detail"] = given.detail
        if answer is not None and answer.likeness is not None:
            line["unlike_training_data"] = answer.likeness.flagged
            if answer.likeness.flagged:
                warn(f"image {number}: UNLIKE THE TRAINING DATA: {answer.likeness.reason}")
        told.append(line)
    if next(predictions, None) is not None:
        note(f"stopped after {limit} images; --limit changes that.")
    page = writer.finish()
    lines = [_line(one) for one in told]
    emit({"page": str(page), "images": told}, [*lines, str(page)], as_json)
    failed = [one for one in told if one["image"] is None]
    if failed:
        counts = Counter(one["outcome"] for one in failed)
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        raise UserError(f"{len(failed)} of {len(told)} could not be explained ({said}). See the lines above.")


def _line(one: dict[str, Any]) -> str:
    words = [f"image {one['image'] or '-'}:", one["file"], one.get("sample_id", ""), one.get("detail", "")]
    return " ".join(word for word in words if word)
