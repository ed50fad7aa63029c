"""From a stored square to what the network reads, in torch alone: what ``eval_transform`` does with MONAI."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from nc_medfl.inference.description import ModelDescription


def to_input(squares: npt.NDArray[np.uint8], description: ModelDescription) -> Tensor:
    """Preprocess a batch.

    Args:
        squares: as prepared, uint8 ``[B, size, size]``.
        description: of the model.

    Returns:
        float32 ``[B, channels, image_size, image_size]``.
    """
    wanted = description.preprocessing
    image = torch.from_numpy(np.ascontiguousarray(squares))[:, None].to(torch.float32) / 255.0
    stored, size = image.shape[-1], wanted.image_size
    if size < stored:
        image = F.interpolate(image, size=(size, size), mode="area")
    elif size > stored:
        image = F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (wanted.mean, wanted.std))
    normalised: Tensor = (image.expand(-1, description.network.in_channels, -1, -1) - mean) / std
    return normalised
