"""DP-SGD at a site: no patient shows in the trained model.

Abadi et al., *Deep Learning with Differential Privacy*, 2016.
A step draws every patient with the same small chance, takes one image of each, clips the gradient of each, and adds
noise to their sum; Opacus' optimiser does the last two. Gradients of single images come from ``torch.func``, since the
class attention keeps its weights where Opacus' own hooks don't look.

The loss of a batch must then be a mean of losses of its images. Cross entropy and contrast are: each image's class
features are compared with the fixed frame. The rejection is not, for it ranks the negatives of the whole batch.
"""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from nc_medfl.config import JobSettings, PrivateTraining
from nc_medfl.errors import UserError
from nc_medfl.names import BACKBONES
from nc_medfl.networks.backbones import ChannelsLast
from nc_medfl.training.methods import get_method
from nc_medfl.training.methods.base import LossFunction
from nc_medfl.training.trainer import TrainingResult, make_optimizer

Rows = npt.NDArray[np.int64]
#: Images whose gradients are held at once; each takes as much memory as the model.
_HELD = 16


@dataclass(frozen=True)
class Sampling:
    """How patients are drawn in one round.

    Attributes:
        rate: chance of a patient to be in a step.
        steps: of the round.
    """

    rate: float
    steps: int


def obstacles(settings: JobSettings) -> list[str]:
    """What a job would have to set so that DP-SGD can train it; empty where it can."""
    training = settings.training
    wanted = {
        "method=fednca or fedavg": settings.method in ("fednca", "fedavg"),
        # What another package's does with the images of a batch isn't known.
        "a backbone of nc_medfl's own": settings.network.backbone in BACKBONES,
        # Batch normalisation mixes the images of a batch.
        "network.norm=group": settings.network.norm == "group",
        "loss.lambda_rejection=0": settings.method != "fednca" or settings.loss.lambda_rejection == 0,
        "network.learned_frame=false": not settings.network.learned_frame,
        "loss.absent_from_global=0": settings.loss.absent_from_global == 0,
        "training.precision=float32": training.precision == "float32",
        "training.clip_norm=null": training.clip_norm is None,
        "training.keep_optimizer=false": not training.keep_optimizer,
    }
    return [text for text, met in wanted.items() if not met]


def plan_sampling(n_patients: int, batch_size: int, local_epochs: int) -> Sampling:
    """Chance and steps that show every patient ``local_epochs`` times on average.

    The number of patients and the batch size are not secret; whose turn it is, is.
    """
    return Sampling(min(1.0, batch_size / n_patients), math.ceil(n_patients / batch_size) * local_epochs)


def draw_patients(rows: Rows, patients: Rows, sampling: Sampling, generator: np.random.Generator) -> list[Rows]:
    """Rows of each step: every patient with the same chance, one image of each, at random.

    Args:
        rows: manifest rows of the training split, ``[N]``.
        patients: a number for each row's patient, ``[N]``.
        sampling: chance and steps.
        generator: must not be known outside, or the chance protects nobody.
    """
    order = np.argsort(patients, kind="stable")
    _, starts, sizes = np.unique(patients[order], return_index=True, return_counts=True)
    steps = []
    for _ in range(sampling.steps):
        drawn = generator.random(len(starts)) < sampling.rate
        chosen = starts[drawn] + generator.integers(0, sizes[drawn])
        steps.append(rows[order[chosen]])
    return steps


def gradients_by_image(network: nn.Module, loss_of: LossFunction, image: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The gradient of each image's own loss.

    Args:
        network: every layer must treat images apart.
        loss_of: of a batch; it is given each image as a batch of its own.
        image: ``[B, channels, H, W]``.
        target: ``[B, C]``.

    Returns:
        By name of the parameter, ``[B, *shape]``.
    """
    parameters = {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}
    others = {name: value.detach() for name, value in network.named_buffers()}

    def loss(values: dict[str, Tensor], one: Tensor, wanted: Tensor) -> Tensor:
        output = functional_call(network, (values, others), (one[None],))
        return loss_of(output, wanted[None])[0]

    with warnings.catch_warnings():
        # The rejection is worked out for the record, with a weight of 0, and has no fast way here.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        gradients: dict[str, Tensor] = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, image, target)
    return gradients


def train_privately(
    network: nn.Module,
    batches: Callable[[list[Rows]], Iterable[dict[str, Tensor]]],
    settings: JobSettings,
    privacy: PrivateTraining,
    *,
    steps: list[Rows],
    expected: float,
    noise_seed: int | None = None,
) -> TrainingResult:
    """Train a network in place for one round.

    Args:
        network: on its device, holding the global weights.
        batches: makes a batch of each array of rows given.
        settings: the job's; see :func:`obstacles`.
        privacy: noise and clipping.
        steps: as :func:`draw_patients` makes them.
        expected: images a step, on average.
        noise_seed: None draws one from the operating system; only tests give one.

    Returns:
        No losses: they would tell of the patients without noise.

    Raises:
        UserError: if Opacus is not installed, or the weights are no longer finite.
    """
    try:
        from opacus.optimizers import DPOptimizer
    except ImportError as error:
        raise UserError(
            "privacy.dp_sgd: Opacus is not installed. Install it with: pip install -c constraints.txt '.[dp]'"
        ) from error
    device = next(network.parameters()).device
    generator = torch.Generator(device=device)
    generator.manual_seed(secrets.randbits(63) if noise_seed is None else noise_seed)
    optimizer: Any = DPOptimizer(
        make_optimizer(network, settings),
        noise_multiplier=privacy.multiplier,
        max_grad_norm=privacy.max_grad_norm,
        expected_batch_size=expected,
        generator=generator,
    )
    loss_of = get_method(settings.method).build_loss(network, settings)
    network.train()
    layouts = [layer for layer in network.modules() if isinstance(layer, ChannelsLast)]
    for layer in layouts:
        layer.enabled = False
    try:
        n_images = 0
        for rows in steps:
            pieces = [rows[start : start + _HELD] for start in range(0, len(rows), _HELD)]
            _step(network, optimizer, loss_of, batches(pieces), len(pieces))
            n_images += len(rows)
    finally:
        for layer in layouts:
            layer.enabled = True
        for parameter in network.parameters():
            for name in ("grad_sample", "summed_grad"):
                if hasattr(parameter, name):
                    delattr(parameter, name)
            parameter.grad = None
    if not all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
        raise UserError("the private training left numbers that are not finite. Lower training.lr.")
    return TrainingResult({}, n_images)


def _step(
    network: nn.Module, optimizer: Any, loss_of: LossFunction, batches: Iterable[dict[str, Tensor]], n_pieces: int
) -> None:
    """One step over the patients drawn; where none was, the noise alone, or their absence would show."""
    optimizer.zero_grad()
    device = next(network.parameters()).device
    if n_pieces == 0:
        for parameter in optimizer.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        optimizer.step()
        return
    named = {name: value for name, value in network.named_parameters() if value.requires_grad}
    for number, batch in enumerate(batches, start=1):
        gradients = gradients_by_image(network, loss_of, batch["image"].to(device), batch["label"].to(device))
        for name, parameter in named.items():
            parameter.grad_sample = gradients[name]  # type: ignore[attr-defined]
        # Opacus adds up the clipped gradients, and adds noise and steps once the last are there.
        optimizer.signal_skip_step(do_skip=number < n_pieces)
        optimizer.step()
        if number < n_pieces:
            optimizer.zero_grad()
