"""What ``nc-medfl evaluate --against`` compares with: runs, models, tables, each site's own model, a pooled one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nc_medfl.cli.console import console, progress_bar
from nc_medfl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from nc_medfl.config import EvaluationSettings
    from nc_medfl.evaluation.predictions import Predictions

#: Words that stand for models which are trained on this machine to compare with.
BASELINES = ("local", "pooled")
#: Folder, in that of the tables, where they are kept.
KEPT = "baselines"

Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        "--compare",
        metavar="WHAT",
        help="Compare on the same patients (comparisons.csv): another run, model or table; or 'local', each site's own "
        "model, or 'pooled', one model of all images in one place, both trained here first. May be given often.",
    ),
]


def tables_of(against: Sequence[str]) -> list[Path]:
    """The tables to compare a table with.

    Raises:
        UserError: for a word that asks for training.
    """
    for word in against:
        if word in BASELINES and not Path(word).exists():
            raise UserError(f"--against {word}: trains a model, so it needs RUN and --sites, not --predictions.")
    return [Path(word) for word in against]


def others_of(against: Sequence[str]) -> list[str | Path]:
    """Words as they are, and the model files of runs.

    Raises:
        UserError: if a run is none.
    """
    return [word if word in BASELINES else model_of(Path(word)) for word in dict.fromkeys(against)]


def model_of(run: Path) -> Path:
    """The model file of a run folder; a file is taken as one."""
    from nc_medfl.federation.run_folder import read_run

    if run.is_file():
        return run
    read_run(run)
    return run / "model_best.pt"


def label_of(path: Path) -> str:
    """How a comparison names a run, model or table."""
    path = path.resolve()  # a run given as '.' has no name of its own
    return path.parent.name if path.stem == "model_best" else path.stem


def compare_models(
    model: Path, others: Sequence[str | Path], sites: Path, folder: Path, settings: EvaluationSettings, seed: int
) -> pd.DataFrame:
    """Rows of ``comparisons.csv`` of a model and each of some others; those that are words are trained first.

    Args:
        model: the first of each pair.
        others: as :func:`others_of` gives them.
        sites: folder with the sites' settings.
        folder: of the tables; what is trained is kept in it.
        settings: how to measure.
        seed: of the bootstrap.
    """
    from nc_medfl.federation.baselines import NAMES, score_baseline
    from nc_medfl.federation.measure import score_everywhere
    from nc_medfl.training.model import load_model

    trained = load_model(model)[1]
    if trained.training.normalisation == "imagenet" and any(isinstance(other, str) for other in others):
        console.print(
            "note: the run started from pretrained weights that are not in its model file; what is trained now "
            "starts from none.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    with progress_bar("scoring at every site") as advance:
        tables, names = [score_everywhere(model, sites, advance)], [label_of(model)]
    for other in others:
        if isinstance(other, str):
            with progress_bar(f"training {NAMES[other]}") as advance:
                tables.append(score_baseline(other, model, sites, folder / KEPT, advance))
            names.append(NAMES[other])
            continue
        with progress_bar("scoring at every site") as advance:
            tables.append(score_everywhere(other, sites, advance))
        names.append(label_of(other))
    own = [number for number, name in enumerate(names) if name == NAMES["local"]]
    return compare_tables(tables, names, settings, seed, own)


def compare_tables(
    tables: Sequence[Predictions],
    names: Sequence[str],
    settings: EvaluationSettings,
    seed: int,
    unpooled: Collection[int] = (),
) -> pd.DataFrame:
    """Rows of ``comparisons.csv`` of the first table and each of the others.

    Args:
        tables: the first and the others.
        names: of all of them.
        settings: how to measure.
        seed: of the bootstrap.
        unpooled: numbers of tables in which each site has a model of its own.
    """
    import pandas as pd

    from nc_medfl.evaluation.compare import compare_predictions

    parts = []
    for number, (other, name) in enumerate(zip(tables[1:], names[1:], strict=True), start=1):
        pair = (names[0], name)
        if names.count(name) > 1:
            pair = (f"{names[0]} (A)" if name == names[0] else names[0], f"{name} ({chr(ord('A') + number)})")
        with progress_bar(f"comparing with {name}") as advance:
            pool = number not in unpooled
            parts.append(compare_predictions(tables[0], other, names=pair, settings=settings, seed=seed, pool=pool))
            advance(1, 1)
    rows: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return rows


def said(compared: pd.DataFrame | None) -> list[str]:
    """What the comparisons of the macro AUC say, a sentence a site and pair."""
    if compared is None:
        return []
    shown = compared[(compared["metric"] == "auc") & (compared["finding"] == "macro")]
    return [str(text) for text in shown["sentence"]]
