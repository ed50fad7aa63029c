"""Local training in one federated round, on one site's training split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nc_medfl.config import JobSettings
from nc_medfl.errors import UserError
from nc_medfl.training import parallel
from nc_medfl.training.global_targets import GlobalTargets
from nc_medfl.training.methods import LocalMemory, get_method
from nc_medfl.training.precision import Precision, cudnn
from nc_medfl.training.schedule import in_round

Batch = dict[str, Tensor]
#: Makes the batches of one epoch; the number given is unique over rounds and epochs, so shuffles differ.
Batches = Callable[[int], Iterable[Batch]]


class Diverged(UserError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class TrainingResult:
    """What one round of local training gave.

    Attributes:
        losses: mean of the total (``loss``) and of each part over images of the last epoch.
        n_samples: images trained on in an epoch.
        optimizer: its state afterwards, where ``training.keep_optimizer`` asks for it.
        memory: what the method sends with the update, and what it keeps at the site.
    """

    losses: dict[str, float]
    n_samples: int
    optimizer: dict[str, Any] | None = None
    memory: LocalMemory = field(default_factory=LocalMemory)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: biases and norm weights without decay, the rest with it (METHOD 5)."""
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            # Norm weights and the logit scale have one dimension or none; so have biases, but those of a class each.
            bias = name.rpartition(".")[2].startswith("bias")
            (plain if parameter.ndim <= 1 or bias else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def make_optimizer(network: nn.Module, settings: JobSettings) -> torch.optim.Optimizer:
    """AdamW as in the published experiments (METHOD 5), or plain SGD without momentum."""
    training = settings.training
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameter_groups(network, training.weight_decay), lr=training.lr)
    # One kernel for each tensor in place of a dozen: of ResNet-18 a step on one core took 11 ms and not 69.
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(
        parameter_groups(network, training.weight_decay),
        lr=training.lr,
        betas=training.betas,
        eps=training.eps,
        fused=fused or None,
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's CPU and CUDA generators seeded, and put them back afterwards."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def train_round(
    network: nn.Module,
    batches: Batches,
    settings: JobSettings,
    *,
    round_number: int,
    seed: int,
    optimizer_state: dict[str, Any] | None = None,
    memory: LocalMemory | None = None,
    absent: Tensor | None = None,
) -> TrainingResult:
    """Train a network in place for the local epochs of one round.

    Args:
        network: on its device, holding the global weights.
        batches: makes the batches of an epoch, each with ``image`` ``[B, 1, H, W]`` and ``label`` ``[B, C]``.
        settings: the job's; where its precision is ``auto``, whoever calls has to try out which it is (see
            :func:`nc_medfl.training.precision.try_out`), and it is float32 otherwise.
        round_number: 0 for the first; it goes into every seed, so no two rounds draw alike, and decides the rate.
        seed: of this site.
        optimizer_state: after an earlier round, to go on with; None starts afresh.
        memory: of the method, for one that has any.
        absent: findings without a positive in the training split, ``[C]`` bool, for ``loss.absent_from_global``.

    Raises:
        UserError: if there is nothing to train on, or the loss is no longer finite.
    """
    settings = in_round(settings, round_number)
    method = get_method(settings.method)
    loss_of = method.build_loss(network, settings)
    device = next(network.parameters()).device
    optimizer = make_optimizer(network, settings)
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
        for group in optimizer.param_groups:
            group["lr"] = settings.training.lr  # not that of the round which the state is of
    rule = method.local_rule(network, settings, memory or LocalMemory())
    model = parallel.spread(network, device)
    precision = Precision(device, settings.training.precision == "mixed")
    scaler = precision.scaler()
    retarget = _global_targets(network, settings, precision, round_number, absent)
    model.train()
    sums: dict[str, Tensor] = {}
    n_samples = 0
    with seeded(seed * 1_000_003 + round_number), cudnn(settings.training.deterministic):
        for epoch in range(settings.training.local_epochs):
            sums, n_samples = {}, 0
            for batch in batches(round_number * settings.training.local_epochs + epoch):
                image = parallel.share(batch["image"]).to(device, non_blocking=True)
                target = retarget(image, batch["label"].to(device, non_blocking=True))
                with precision.autocast():
                    output = model(image)
                output = parallel.whole(output, len(target))
                total, parts = loss_of(output, target)
                # Already there, but where several processes have a share each.
                every = image if len(image) == len(target) else batch["image"].to(device, non_blocking=True)
                if (term := rule.contrast(every, output)) is not None:
                    total, parts = total + term[1], {**parts, term[0]: term[1]}
                optimizer.zero_grad(set_to_none=True)
                objective = total * parallel.loss_factor(len(target))
                # Every process has the whole of a penalty on the weights, so it is no share of a sum.
                if (penalty := rule.penalty()) is not None:
                    parts = {**parts, penalty[0]: penalty[1]}
                    total, objective = total + penalty[1], objective + penalty[1]
                torch.autograd.backward(scaler.scale(objective))
                _clip(network, optimizer, scaler, settings.training.clip_norm)
                scaler.step(optimizer)
                scaler.update()
                rule.after_step()
                _add_up(sums, {"loss": total, **parts}, len(target))
                n_samples += len(target)
        rule.after_epochs(lambda: batches((round_number + 1) * settings.training.local_epochs - 1))
    if n_samples == 0:
        raise UserError("no training images. Prepare a store whose train split is not empty.")
    losses = {name: float(value) / n_samples for name, value in sums.items()}
    if not all(torch.isfinite(torch.tensor(v)) for v in losses.values()):
        raise Diverged("the training loss is not finite. Lower training.lr, or set training.clip_norm.")
    state = optimizer.state_dict() if settings.training.keep_optimizer else None
    return TrainingResult(losses, n_samples, state, rule.finish())


def _global_targets(
    network: nn.Module, settings: JobSettings, precision: Precision, round_number: int, absent: Tensor | None
) -> Callable[[Tensor, Tensor], Tensor]:
    """What makes the targets of a batch: the labels as they are, but for findings that the site doesn't have."""
    share = settings.loss.absent_from_global
    # In the first round the global model has seen nothing.
    if share == 0 or round_number == 0 or absent is None or not bool(absent.any()):
        return lambda _image, target: target
    return GlobalTargets(network, absent, share, precision)


def _clip(
    network: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, limit: float | None
) -> None:
    if limit is not None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), limit)


def _add_up(sums: dict[str, Tensor], parts: dict[str, Tensor], weight: int) -> None:
    """Add to running sums on the device: reading a number back would stall a GPU every step."""
    for name, value in parts.items():
        sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach() * weight
