"""Building the network of a job, and the model file that a run leaves behind."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nc_medfl.config import JobSettings, with_later_keys
from nc_medfl.data.store import write_atomic
from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary, load_vocabulary
from nc_medfl.networks import FedNCANet, PooledNet
from nc_medfl.settings import parse
from nc_medfl.training.methods import get_method

Network: TypeAlias = "FedNCANet | PooledNet"

MODEL_SCHEMA = 1


def network_spec(settings: JobSettings) -> dict[str, Any]:
    """``{"class_path", "args"}`` of a job's network, JSON values only, as FLARE's persistor takes it."""
    method = get_method(settings.method)
    return {
        "class_path": method.network_class,
        "args": method.network_args(settings, len(load_vocabulary(settings.vocabulary))),
    }


def build_network(settings: JobSettings, *, pretrained: bool = False) -> Network:
    """Build a job's network with seeded weights.

    Args:
        settings: the job's.
        pretrained: read ``network.init_weights`` too. Only who starts a federation does; a site gets its
            weights from the server and needs no such file.
    """
    spec = network_spec(settings)
    if not pretrained:
        spec["args"]["init_weights"] = None
    module, _, name = spec["class_path"].rpartition(".")
    network: Network = getattr(importlib.import_module(module), name)(**spec["args"])
    return network


def fingerprints(network: Network, vocabulary: Vocabulary) -> dict[str, str]:
    """Fingerprints that must agree between server and sites: vocabulary, frame and model."""
    return {
        "vocabulary": vocabulary.fingerprint,
        "frame": network.frame_fingerprint() if isinstance(network, FedNCANet) else "",
        "model": network.fingerprint(),
    }


def save_model(
    path: Path, params: Mapping[str, Tensor], settings: JobSettings, *, rounds: int, prints: Mapping[str, str]
) -> None:
    """Write a model file that says by itself what it is: weights, settings, vocabulary, fingerprints."""
    content = {
        "schema_version": MODEL_SCHEMA,
        "settings": settings.model_dump(mode="json"),
        "findings": list(load_vocabulary(settings.vocabulary).findings),
        "fingerprints": dict(prints),
        "round": rounds,
        "state_dict": {name: torch.as_tensor(value).detach().cpu().clone() for name, value in params.items()},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getbuffer())


def load_model(path: Path) -> tuple[Network, JobSettings, dict[str, Any]]:
    """Read a model file.

    Returns:
        The network in evaluation mode, the settings it was trained with, and the rest of the file.

    Raises:
        UserError: if it is missing, no model file of this package, or does not fit its own description.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such model file. A run that was stopped has none: run it again.") from error
    except Exception as error:  # torch raises many kinds for a file that is not one of its own
        raise UserError(f"{path}: not a model file of nc_medfl. Give the model_best.pt of a run.") from error
    if not isinstance(content, dict) or not {"state_dict", "settings", "fingerprints"} <= set(content):
        raise UserError(f"{path}: not a model file of nc_medfl. Give the model_best.pt of a run.")
    if int(content.get("schema_version", 0)) > MODEL_SCHEMA:
        raise UserError(f"{path}: written by a newer nc_medfl. Upgrade this one.")
    settings = parse(JobSettings, with_later_keys(content["settings"]), where=str(path))
    network = build_network(settings)
    found = fingerprints(network, load_vocabulary(settings.vocabulary))
    wrong = [name for name, value in content["fingerprints"].items() if found.get(name) != value]
    if wrong:
        raise UserError(f"{path}: its {wrong[0]} fingerprint differs from what its settings build. It was altered.")
    try:
        network.load_state_dict(content.pop("state_dict"))
    except RuntimeError as error:
        raise UserError(
            f"{path}: its weights do not fit the network that its settings build. It was altered."
        ) from error
    return network.eval(), settings, content
