"""``nc-medfl export-model``: a run's model as files for other machines and runtimes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nc_medfl.cli.console import emit, progress_bar
from nc_medfl.cli.options import AsJson
from nc_medfl.errors import UserError, writing

if TYPE_CHECKING:
    from nc_medfl.inference.model_file import PortableModel


def export_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run's folder, its .pt file, or a portable model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write: model.json, model.safetensors, card.")],
    sites: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the sites' settings, where their stores are on this machine: adds calibration and what "
            "training images are like."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=16, max=2048, help="Side of the stored images, where nothing else tells it.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx too, checked under onnxruntime.")] = False,
    torchscript: Annotated[
        bool, typer.Option("--torchscript", help="Write model.ts too, loaded again and checked.")
    ] = False,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Write a MONAI bundle too, checked by monai.bundle.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's model as safetensors and JSON with its card, and on request for other runtimes.

    Example: `nc-medfl export-model runs/first model --sites sites --onnx`
    """
    from nc_medfl.inference.model_file import CARD, DESCRIPTION, WEIGHTS, read_model

    _check_out(model, out)
    wanted = {"onnx": onnx, "torchscript": torchscript, "bundle": bundle}
    with writing(out, "Give OUT another folder."):
        with progress_bar("writing the model file") as advance:
            advance(0, 1)
            _portable(model, out, sites, size)
            advance(1, 1)
        loaded = read_model(out)
        checked = _exports(loaded, out, wanted)
    paths = [out / name for name in (DESCRIPTION, WEIGHTS, CARD)]
    lines = [f"{path}: scores within {worst:.1e} of the model's" for path, worst in checked.items()]
    payload: dict[str, Any] = {
        "fingerprint": loaded.description.fingerprint,
        "files": [str(path) for path in paths],
        "exports": {path: {"largest_difference": worst} for path, worst in checked.items()},
        "sites": sorted(loaded.description.operating_points),
        "has_reference": loaded.description.reference is not None,
    }
    emit(payload, [*lines, *map(str, paths)], as_json)


def _check_out(model: Path, out: Path) -> None:
    if out.is_file():
        raise UserError(f"{out}: is a file. Give OUT a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / "model.json").is_file():
        raise UserError(f"{out}: not empty, and no portable model. Give OUT another folder.")
    if out.exists() and model.exists() and out.resolve() == model.resolve() and (out / "run.json").exists():
        raise UserError(f"{out}: is the run itself. Give OUT another folder.")


def _portable(model: Path, out: Path, sites: Path | None, size: int | None) -> None:
    """Write the portable model, from a run or as a copy of one."""
    from nc_medfl.inference.model_file import CARD, DESCRIPTION, WEIGHTS, find_model, read_model

    is_run = model.suffix == ".pt" or (model / "model_best.pt").is_file()
    if is_run and (sites is not None or size is not None or not (model / "model" / DESCRIPTION).is_file()):
        from nc_medfl.federation.portable import package_model

        package_model(model, out, sites=sites, size=size)
        return
    if sites is not None or size is not None:
        raise UserError("--sites, --size: only with a run or its .pt file. Leave them out for a portable model.")
    source = find_model(model)
    read_model(source)
    if source.resolve() == out.resolve():
        return
    out.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, DESCRIPTION, CARD):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _exports(model: PortableModel, out: Path, wanted: dict[str, bool]) -> dict[str, float]:
    """Largest difference by path."""
    done: dict[str, float] = {}
    if wanted["onnx"]:
        from nc_medfl.inference.exports import ONNX, export_onnx

        done[str(out / ONNX)] = export_onnx(model, out / ONNX)
    if wanted["torchscript"]:
        from nc_medfl.inference.exports import TORCHSCRIPT, export_torchscript

        done[str(out / TORCHSCRIPT)] = export_torchscript(model, out / TORCHSCRIPT)
    if wanted["bundle"]:
        from nc_medfl.inference.bundle import BUNDLE, export_bundle

        done[str(out / BUNDLE)] = export_bundle(model, out / BUNDLE)
    return done
