"""A MONAI bundle of a model: what MONAI's users expect, checked by ``monai.bundle`` before it is kept.

Its network is TorchScript's, so that whoever runs the bundle needs MONAI and not this package. It gives the scores
alone: MONAI's tools take a network's output for one tensor.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nc_medfl.data.store import write_json
from nc_medfl.errors import UserError
from nc_medfl.inference.card import card_of
from nc_medfl.inference.description import ModelDescription
from nc_medfl.inference.exports import TOLERANCE, export_torchscript, exported, sample_images
from nc_medfl.inference.model_file import PortableModel
from nc_medfl.inference.pixels import to_input

BUNDLE = "bundle"
_MARKER = "configs/metadata.json"


def export_bundle(model: PortableModel, folder: Path) -> float:
    """Write a bundle, verify its metadata, load and run its network, and compare.

    Args:
        model: as read.
        folder: the bundle; an earlier one is replaced.

    Returns:
        The largest difference of a score.

    Raises:
        UserError: if something else lies there, or ``monai.bundle`` finds a fault.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).is_file():
        raise UserError(f"{folder}: holds something else than a bundle. Give another OUT.")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        draft = Path(scratch) / BUNDLE
        _write(model, draft)
        worst = _verify(model, draft)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    return worst


def _write(model: PortableModel, folder: Path) -> None:
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True)
    export_torchscript(model, folder / "models" / "model.ts", attention=False)
    write_json(folder / "configs" / "metadata.json", _metadata(model.description))
    write_json(folder / "configs" / "inference.json", _inference(model.description))
    (folder / "docs" / "README.md").write_text(card_of(model.description), encoding="utf-8")
    (folder / "docs" / "model.json").write_text(
        json.dumps(model.description.model_dump(mode="json"), indent=1, sort_keys=True), encoding="utf-8"
    )


def _metadata(d: ModelDescription) -> dict[str, Any]:
    import monai

    side, channels = d.preprocessing.image_size, d.network.in_channels
    scores = {
        "type": "probabilities",
        "format": "classes",
        "num_channels": len(d.findings),
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {str(c): name for c, name in enumerate(d.findings)},
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by nc_medfl"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "task": "Findings on frontal chest radiographs",
        "description": "A federated multi-label model. Research only: not a medical device.",
        "authors": "nc_medfl",
        "copyright": "",
        "intended_use": "Research; not a medical device",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "radiograph",
                    "num_channels": channels,
                    "spatial_shape": [side, side],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(c): "image" for c in range(channels)},
                }
            },
            "outputs": {"pred": scores},
        },
        "nc_medfl": {"model": d.fingerprint, "preprocessing": d.preprocessing.model_dump(mode="json")},
    }


def _inference(d: ModelDescription) -> dict[str, Any]:
    size, mean, std = d.preprocessing.image_size, list(d.preprocessing.mean), list(d.preprocessing.std)
    channel_wise = len(mean) > 1
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cpu')",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device).eval()",
        "image": "",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImage", "image_only": True, "reader": "PILReader", "reverse_indexing": False},
                {"_target_": "EnsureChannelFirst"},
                {"_target_": "ScaleIntensityRange", "a_min": 0, "a_max": 255, "b_min": 0.0, "b_max": 1.0},
                {"_target_": "Resize", "spatial_size": [size, size], "mode": "area"},
                {"_target_": "RepeatChannel", "repeats": d.network.in_channels},
                {
                    "_target_": "NormalizeIntensity",
                    # MONAI takes a list for channels one by one, and one number for all of them.
                    "subtrahend": mean if channel_wise else mean[0],
                    "divisor": std if channel_wise else std[0],
                    "channel_wise": channel_wise,
                },
            ],
        },
        "run": ["$print(@network_def(@preprocessing(@image)[None].as_tensor().to(@device)))"],
    }


def _verify(model: PortableModel, folder: Path) -> float:
    """The bundle's own words parsed and run by ``monai.bundle``; no schema is fetched from anywhere."""
    from monai.bundle import ConfigParser

    meta, config = (str(folder / "configs" / name) for name in ("metadata.json", "inference.json"))
    _verify_shapes(meta, config, folder)
    parser = ConfigParser()
    parser.read_meta(meta)
    parser.read_config(config)
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def")
    said = parser["_meta_"]["network_data_format"]
    if len(said["outputs"]["pred"]["channel_def"]) != len(model.description.findings):
        raise UserError("--bundle: its metadata does not name every finding. Nothing was written.")
    _verify_preprocessing(parser.get_parsed_content("preprocessing"), model.description, folder)
    shape = said["inputs"]["image"]
    image = sample_images(model, 2)
    if list(image.shape[1:]) != [shape["num_channels"], *shape["spatial_shape"]]:
        raise UserError("--bundle: its metadata states another input than the network's. Nothing was written.")
    with torch.no_grad():
        found, wanted = network(image), exported(model, attention=False)(image)
    worst = float((found - wanted).abs().max())
    if not worst <= TOLERANCE:
        raise UserError(f"--bundle: its scores differ by {worst:.2g}. Nothing was written.")
    return worst


def _verify_shapes(meta: str, config: str, folder: Path) -> None:
    """Have MONAI run the network on what the metadata state, and compare what comes out."""
    from monai.bundle import verify_net_in_out
    from monai.bundle.scripts import logger

    level = logger.level
    logger.setLevel(logging.WARNING)  # it logs its arguments, paths among them
    try:
        verify_net_in_out(
            net_id="network_def", meta_file=meta, config_file=config, device="cpu", bundle_root=str(folder)
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"--bundle: MONAI does not verify it ({error}). Nothing was written.") from error
    finally:
        logger.setLevel(level)


def _verify_preprocessing(preprocessing: Any, d: ModelDescription, folder: Path) -> None:
    """Have MONAI read a picture of noise, and compare it with what the network was trained on."""
    side = d.preprocessing.image_size
    square = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        path = Path(scratch) / "noise.png"
        Image.fromarray(square).save(path)
        found = preprocessing(str(path)).as_tensor()
    worst = float((found - to_input(square[None], d)[0]).abs().max())
    if not worst <= TOLERANCE:
        raise UserError(f"--bundle: it prepares pictures otherwise, by {worst:.2g}. Nothing was written.")
