"""The MODEL that several verbs take: a portable model, a run that holds one, or a run's ``.pt`` file."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nc_medfl.cli.console import console
from nc_medfl.errors import UserError

if TYPE_CHECKING:
    from nc_medfl.inference.model_file import PortableModel

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A run's folder, or the OUT of 'nc-medfl export-model'.")]
Files = Annotated[
    list[str], typer.Argument(metavar="FILES...", help="DICOM, PNG, JPEG, TIFF, NIfTI, folders of them, or stores.")
]


def open_model(path: Path) -> PortableModel:
    """Read the model that was named.

    Raises:
        UserError: in one line, whatever is wrong with it.
    """
    from nc_medfl.inference.model_file import read_model

    if path.suffix == ".pt" or _is_run_without_model(path):
        return _of_checkpoint(path)
    return read_model(path)


def _is_run_without_model(path: Path) -> bool:
    """An earlier version's run."""
    holds = [path / name for name in ("model.json", "model/model.json")]
    return path.is_dir() and (path / "model_best.pt").is_file() and not any(p.exists() for p in holds)


def _of_checkpoint(path: Path) -> PortableModel:
    """The portable model that was made of a checkpoint, or one made of it now, without a reference."""
    from nc_medfl.inference.model_file import read_model

    checkpoint = path / "model_best.pt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(f"{path}: no such model. Give a run's folder, or the OUT of 'nc-medfl export-model'.")
    beside = checkpoint.parent / "model"
    if (beside / "model.json").is_file() and _made_of(beside / "model.json", checkpoint):
        return read_model(beside)
    from nc_medfl.federation.portable import package_model

    console.print(f"{path}: made portable for this once; 'nc-medfl export-model' does so for good.", markup=False)
    with tempfile.TemporaryDirectory() as scratch:
        package_model(checkpoint, Path(scratch))
        return read_model(Path(scratch))


def _made_of(description: Path, checkpoint: Path) -> bool:
    try:
        said = json.loads(description.read_text(encoding="utf-8"))["source_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(said == hashlib.sha256(checkpoint.read_bytes()).hexdigest())
