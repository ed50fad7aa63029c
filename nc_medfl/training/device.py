"""Where to train: one code path for CPU and GPU."""

from __future__ import annotations

import torch

from nc_medfl.errors import UserError


def pick_device(wanted: str = "auto") -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: if a GPU is asked for by name and there is none; ``auto`` takes what there is.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {wanted}: this machine has {torch.cuda.device_count()} GPUs. Set device: auto.")
    return device
