"""Exports for other runtimes, each run once and compared with the model before it is kept.

Every one takes what :func:`nc_medfl.inference.pixels.to_input` gives, float32 ``[B, channels, side, side]``, and gives
the network's own scores ``[B, C]`` in [0, 1] (before calibration), and where the network has class queries their
attention ``[B, heads, C, H*W]``.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nc_medfl.errors import UserError
from nc_medfl.inference.model_file import PortableModel, build
from nc_medfl.networks.backbones import ChannelsLast

ONNX, TORCHSCRIPT = "model.onnx", "model.ts"
#: The largest difference of a score that is taken for rounding.
TOLERANCE = 1e-4
#: Batches that a comparison is made on, images each: an export must not be tied to the one it was made with.
_CHECKED = (1, 3)
_OPSET = 18


class Exported(nn.Module):
    """A network as it is exported: scores, and attention where there are class queries."""

    def __init__(self, network: nn.Module, attention: bool) -> None:
        super().__init__()
        self.network = network
        self.attention = attention

    def forward(self, image: Tensor) -> Any:
        """Scores ``[B, C]``, or scores and attention."""
        output = self.network(image)
        scores = torch.sigmoid(output.logits)
        return (scores, output.attention) if self.attention else scores


def has_queries(model: PortableModel) -> bool:
    """Whether the network looks with class queries."""
    return model.description.network.kind == "FedNCANet" and model.description.network.queries != "mlp"


def export_onnx(model: PortableModel, path: Path) -> float:
    """Write ONNX, run it under onnxruntime, and compare.

    Args:
        model: as read.
        path: of the file.

    Returns:
        The largest difference of a score or attention weight.

    Raises:
        UserError: if onnx or onnxruntime is not installed, or the numbers differ.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "--onnx: needs onnx and onnxruntime. Install them with: pip install 'nc_medfl[export]'."
        ) from error
    network = exported(model)
    names = ["scores", "attention"] if network.attention else ["scores"]
    with _quiet():
        program = torch.onnx.export(
            network,
            (sample_images(model, 2),),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["image"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    if program is None:
        raise UserError("--onnx: torch made no ONNX program of this network. Leave --onnx out.")
    proto = program.model_proto
    about = {
        "model_fingerprint": model.description.fingerprint,
        "findings": json.dumps(list(model.description.findings)),
        "preprocessing": model.description.preprocessing.model_dump_json(),
        "intended_use": "research, not a medical device",
    }
    for key, value in about.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    worst = _compare(
        network, model, lambda image: session.run(names, {"image": image.numpy()}), "--onnx", "onnxruntime"
    )
    _write(path, content)
    return worst


def export_torchscript(model: PortableModel, path: Path, *, attention: bool = True) -> float:
    """Write TorchScript, load it again, and compare; as :func:`export_onnx`.

    Args:
        model: as read.
        path: of the file.
        attention: whether a network with class queries gives their attention beside the scores.
    """
    network, jit = exported(model, attention=attention), cast("Any", torch.jit)
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        traced = jit.trace(network, sample_images(model, 2), check_trace=False)
    buffer = io.BytesIO()
    jit.save(traced, buffer, _extra_files={"model.json": model.description.model_dump_json().encode()})
    buffer.seek(0)
    again = jit.load(buffer, map_location="cpu").eval()
    worst = _compare(network, model, lambda image: _arrays(again(image)), "--torchscript", "TorchScript")
    _write(path, buffer.getvalue())
    return worst


def exported(model: PortableModel, *, attention: bool = True) -> Exported:
    """The network without changes of memory layout, which other runtimes do themselves; see the exports for both."""
    network = build(model.description.network)
    network.load_state_dict(model.network.state_dict())
    for module in network.modules():
        if isinstance(module, ChannelsLast):
            module.enabled = False
    return Exported(network, attention and has_queries(model)).eval()


def sample_images(model: PortableModel, count: int) -> Tensor:
    """Noise in the shape of the network's input, the same each time."""
    side, channels = model.description.preprocessing.image_size, model.description.network.in_channels
    return torch.rand((count, channels, side, side), generator=torch.Generator().manual_seed(count))


def _arrays(output: Any) -> list[npt.NDArray[np.float32]]:
    return [part.detach().numpy() for part in (output if isinstance(output, tuple) else (output,))]


def _compare(network: Exported, model: PortableModel, run: Any, option: str, runtime: str) -> float:
    worst = 0.0
    for count in _CHECKED:
        image = sample_images(model, count)
        with torch.no_grad():
            wanted = _arrays(network(image))
        found = run(image)
        for a, b in zip(found, wanted, strict=True):
            worst = max(worst, float(np.abs(np.asarray(a) - b).max()))
    if not worst <= TOLERANCE:
        raise UserError(f"{option}: under {runtime} scores differ by {worst:.2g}. Nothing was written.")
    return worst


def _write(path: Path, content: bytes) -> None:
    from nc_medfl.data.store import write_atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell of their own deprecations at length."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
