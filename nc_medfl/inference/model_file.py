"""The portable model file: ``model.json``, ``model.safetensors`` and a card, read without running anything in them.

The fingerprints tell damage and careless edits, not malice: whoever can write the folder can make them fit. What a
hostile file can't do is run code: weights are safetensors and the rest is JSON with a closed set of keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from nc_medfl.errors import UserError
from nc_medfl.inference.description import SCHEMA_VERSION, ModelDescription, NetworkDescription
from nc_medfl.networks.fednca import FedNCANet
from nc_medfl.networks.pooled import PooledNet
from nc_medfl.settings import parse

Network: TypeAlias = "FedNCANet | PooledNet"

DESCRIPTION, WEIGHTS, CARD = "model.json", "model.safetensors", "MODEL_CARD.md"
#: The folder of the portable model in a run's folder.
MODEL_FOLDER = "model"
#: Tensors of the reference lie beside the network's under names that begin so.
REFERENCE = "reference/"

_MAX_DESCRIPTION = 32 * 2**20
_MAX_WEIGHTS = 4 * 2**30
_REMEDY = "Make it again with 'nc-medfl export-model RUN OUT'."


@dataclass(frozen=True)
class PortableModel:
    """A model that was read.

    Attributes:
        where: its folder, for messages.
        description: what ``model.json`` says.
        network: in evaluation mode, on the CPU.
        reference: tensors of the reference by name; empty where there is none.
    """

    where: str
    description: ModelDescription
    network: Network
    reference: Mapping[str, Tensor]


def build(network: NetworkDescription, *, library: str = "torch") -> Network:
    """Build the network of a description, without its weights.

    Args:
        network: the description.
        library: ``torch`` builds without importing MONAI.

    Raises:
        UserError: if its numbers don't go together.
    """
    if network.kind == "PooledNet":
        return PooledNet(
            network.num_classes,
            network.backbone,
            network.in_channels,
            head=network.head,
            norm=network.norm,
            frame_seed=network.frame_seed,
            library=library,
        )
    return FedNCANet(
        network.num_classes,
        network.backbone,
        network.in_channels,
        network.feature_dim,
        norm=network.norm,
        num_heads=network.num_heads,
        queries=network.queries,
        query_length=network.query_length,
        position_code=network.position_code,
        normalise_features=network.normalise_features,
        frame_seed=network.frame_seed,
        learned_frame=network.learned_frame,
        library=library,
    )


def fingerprints_of(network: Network, description: ModelDescription) -> dict[str, str]:
    """Fingerprints of vocabulary, frame and network, as a federation compares them."""
    return {
        "vocabulary": description.vocabulary_fingerprint(),
        "frame": network.frame_fingerprint() if isinstance(network, FedNCANet) else "",
        "model": network.fingerprint(),
    }


def write_model(
    folder: Path, description: ModelDescription, weights: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> ModelDescription:
    """Write ``model.safetensors`` and ``model.json``, each whole or not at all.

    Args:
        folder: made if missing.
        description: its checksums are filled in here.
        weights: the network's state dict.
        reference: tensors of the reference.

    Returns:
        The description as written.
    """
    from safetensors.torch import save

    from nc_medfl.data.store import write_atomic  # with pandas, which reading a model needs not wait for

    folder.mkdir(parents=True, exist_ok=True)
    named = {**weights, **{REFERENCE + name: value for name, value in reference.items()}}
    content = save({name: value.detach().cpu().contiguous() for name, value in sorted(named.items())})
    digest = hashlib.sha256(content).hexdigest()
    sealed = description.model_copy(update={"weights_sha256": digest}).sealed()
    text = json.dumps(sealed.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / WEIGHTS, content)
    write_atomic(folder / DESCRIPTION, (text + "\n").encode())
    return sealed


def find_model(path: Path) -> Path:
    """The folder of a portable model: itself, a run that holds one, or one of the files in it.

    Raises:
        UserError: if there is none.
    """
    if path.is_file() and path.name in (DESCRIPTION, WEIGHTS, CARD):
        path = path.parent
    if not path.exists():
        raise UserError(f"{path}: no such model. Give a run's folder, or the OUT of 'nc-medfl export-model'.")
    for folder in (path, path / MODEL_FOLDER):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise UserError(f"{path}: no {DESCRIPTION} in it, so no portable model. {_REMEDY}")


def read_description(folder: Path) -> ModelDescription:
    """Read and check ``model.json``.

    Raises:
        UserError: in one line, whatever is wrong with it.
    """
    path = folder / DESCRIPTION
    try:
        if path.stat().st_size > _MAX_DESCRIPTION:
            raise UserError(f"{path}: far too long for a model's description. {_REMEDY}")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON. {_REMEDY}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path}: not a model's description. {_REMEDY}")
    if version > SCHEMA_VERSION:
        raise UserError(f"{path}: written by a newer nc_medfl. Upgrade this one.")
    description = parse(ModelDescription, content, where=str(path))
    if description.own_fingerprint() != description.fingerprint:
        raise UserError(f"{path}: its content does not have the fingerprint it states. It was altered. {_REMEDY}")
    return description


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def read_model(path: Path) -> PortableModel:
    """Read a portable model and check it against its own description.

    Args:
        path: as :func:`find_model` takes it.

    Raises:
        UserError: in one line, if it is missing, damaged, altered, of another package version, or holds anything
            else than such a model.
    """
    folder = find_model(path)
    description = read_description(folder)
    tensors = _read_weights(folder / WEIGHTS, description.weights_sha256)
    network = build(description.network)
    found = fingerprints_of(network, description)
    wrong = [name for name, value in found.items() if description.fingerprints.get(name) != value]
    if wrong:
        raise UserError(f"{folder}: its {wrong[0]} fingerprint differs from what it describes. It was altered.")
    reference = {k.removeprefix(REFERENCE): v for k, v in tensors.items() if k.startswith(REFERENCE)}
    weights = {k: v for k, v in tensors.items() if not k.startswith(REFERENCE)}
    load_weights(network, weights, str(folder / WEIGHTS))
    return PortableModel(str(folder), description, network.eval(), reference)


def load_weights(network: Network, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a network, whose names, shapes and types they must have.

    Raises:
        UserError: if one is missing, too many, of another shape or type, or not finite.
    """
    own = network.state_dict()
    absent, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if absent or extra:
        what = f"lacks '{absent[0]}'" if absent else f"holds '{extra[0]}', which its network has not"
        raise UserError(f"{where}: {what}. It was altered. {_REMEDY}")
    for name, value in weights.items():
        if value.shape != own[name].shape or value.dtype != own[name].dtype:
            raise UserError(f"{where}: '{name}' is of another shape or type than its network's. It was altered.")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{where}: NaN or infinity in '{name}'. {_REMEDY}")
    network.load_state_dict(dict(weights))


def _read_weights(path: Path, digest: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if path.stat().st_size > _MAX_WEIGHTS:
            raise UserError(f"{path}: far too long for weights. {_REMEDY}")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). {_REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{path}: not the weights that {DESCRIPTION} was written for (damaged or altered). {_REMEDY}")
    try:
        tensors: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not safetensors. {_REMEDY}") from error
    return tensors
