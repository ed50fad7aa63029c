"""Weights trained elsewhere (ImageNet, other chest X-ray models), read from a local file into a backbone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nc_medfl.errors import UserError
from nc_medfl.networks.backbones import Backbone

_HEAD = re.compile(r"^(fc|classifier|head|class_layers)\.")
# torchvision: denselayer1.norm1; older files: denselayer1.norm.1; MONAI: denselayer1.layers.norm1.
_DENSE_LAYER = re.compile(r"\.(denselayer\d+)\.(norm|conv)\.?([12])\.")
_SHOWN = 8


def load_backbone_weights(backbone: Backbone, path: str | Path) -> None:
    """Copy a file's weights into a backbone; its classifier head is left out.

    The file holds a state dict (``.safetensors``, or anything ``torch.load(weights_only=True)`` reads),
    bare or under ``state_dict`` or ``model``, with the names of torchvision or MONAI under any prefix, as in
    ``module.`` or ``backbone.``. A three-channel stem is summed over its channels for a grey image: the
    same answer as for a picture whose three channels are all this image. ``num_batches_tracked``, which
    old files lack, may be missing. All else has to match by name and shape.

    Args:
        backbone: changed in place, and only if everything matches.
        path: of the file.

    Raises:
        UserError: if the file is missing or unreadable, or doesn't match; it lists what did not.
    """
    path = Path(path)
    given = _backbone_entries(_read(path), backbone, path)
    own = backbone.features.state_dict()
    given = {name: _fit_stem(value, own[name]) if name == backbone.stem else value for name, value in given.items()}
    _check(given, own, backbone, path)
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"init_weights: no file {path}. Give a local file with a state dict; none is downloaded.")
    content: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError(f"init_weights: {path}: install safetensors to read it.") from error
    except Exception as error:  # both readers raise many kinds for a file that is not theirs
        raise UserError(
            f"init_weights: {path}: not readable as plain weights. Save a state dict, as in "
            "torch.save(model.state_dict(), file); whole pickled models are not opened, they can run code."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    entries = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not entries:
        raise UserError(f"init_weights: {path}: holds no named tensors. Give a file with a state dict.")
    return entries


def _backbone_entries(entries: Mapping[str, Tensor], backbone: Backbone, path: Path) -> dict[str, Tensor]:
    """The entries beside the stem, under our names: whatever prefix the stem has, theirs is the same."""
    prefixes = [k.removesuffix(backbone.stem) for k in entries if k == backbone.stem or k.endswith("." + backbone.stem)]
    if not prefixes:
        raise UserError(
            f"init_weights: {path}: no '{backbone.stem}' in it, so it is no {backbone.name} "
            f"(it has: {_some(list(entries))}). Give weights of a {backbone.name} or set the backbone they are of."
        )
    prefix = min(prefixes, key=len)
    inside = {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}
    return {
        _DENSE_LAYER.sub(r".\1.layers.\2\3.", name): value for name, value in inside.items() if not _HEAD.match(name)
    }


def _fit_stem(given: Tensor, own: Tensor) -> Tensor:
    if given.ndim == 4 and given.shape[1] == 3 and own.shape[1] == 1:
        return given.sum(dim=1, keepdim=True)
    return given


def _check(given: Mapping[str, Tensor], own: Mapping[str, Tensor], backbone: Backbone, path: Path) -> None:
    missing = [n for n in own if n not in given and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in given if n not in own]
    shapes = [
        f"{n} {list(given[n].shape)} for {list(own[n].shape)}"
        for n in own
        if n in given and given[n].shape != own[n].shape
    ]
    problems = [
        f"{title} {_some(names)}"
        for title, names in (("missing:", missing), ("unexpected:", unexpected), ("of another shape:", shapes))
        if names
    ]
    if problems:
        raise UserError(
            f"init_weights: {path} does not match {backbone.name}; {'; '.join(problems)}. "
            "Give weights of this very network, or set backbone and norm to theirs."
        )
    broken = [n for n, v in given.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if broken:
        raise UserError(f"init_weights: {path}: NaN or infinity in {_some(broken)}. Give a sound file.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
