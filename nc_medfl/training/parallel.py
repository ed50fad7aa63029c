"""Training one network on several devices of a machine, a process each, with the result of a single one.

The loss of a batch is not a mean over images: unknown labels are left out and classes are contrasted across the
batch. So each process computes the outputs of its share of the batch, fetches those of the others, and takes the loss
of the whole batch; the gradients that arise from the shares add up to those of a single process. Batch normalisation
needs the statistics of the whole batch too: ``SyncBatchNorm`` on GPUs; on CPUs PyTorch has none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """Processes that train together: 1 unless :func:`group` is open."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun started, if it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def spread(network: nn.Module, device: torch.device) -> nn.Module:
    """The network as one of several copies whose gradients are averaged; itself when there is one process."""
    if world_size() == 1:
        return network
    if device.type == "cpu":
        return DistributedDataParallel(network, find_unused_parameters=True)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(network, device_ids=[device.index], find_unused_parameters=True)


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch; the whole where there are fewer images than processes."""
    if len(batch) < world_size():
        return batch
    return torch.tensor_split(batch, world_size())[rank()]


def whole(output: Any, n_images: int) -> Any:
    """The output of the whole batch, of which this process's part alone carries gradients.

    Args:
        output: a named tuple of tensors, images first.
        n_images: in the whole batch.
    """
    return type(output)(*(gathered(value, n_images) for value in output))


def gathered(own: Tensor, n_images: int) -> Tensor:
    """A tensor of the whole batch, images first, from each process's part, of which its own alone carries gradients."""
    return own if world_size() == 1 or n_images < world_size() else _gathered(own, n_images)


def agreed(value: str | None) -> str | None:
    """The first process's value of something that each could find otherwise."""
    if world_size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def loss_factor(n_images: int) -> int:
    """What to multiply the loss by, since gradients are averaged over processes and shares have to add up."""
    return world_size() if n_images >= world_size() else 1


def _gathered(own: Tensor, n_images: int) -> Tensor:
    sizes = [len(part) for part in torch.tensor_split(torch.empty(n_images), world_size())]
    padded = own.new_zeros((max(sizes), *own.shape[1:]))
    padded[: len(own)] = own.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    cut = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    cut[rank()] = own
    return torch.cat(cut)
