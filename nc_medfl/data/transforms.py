"""MONAI transforms from stored images to what a network reads, for training and for evaluation.

They work on a whole batch at once, the batch standing where MONAI expects channels: MONAI's own intensity and
resize transforms don't mind, and the random ones here give each image its own draws. MONAI's random transforms
take one image at a time: with the same augmentation at 64 px they made about 800 images a second on an idle
core, no more than a small network trains on there, and a tenth or less of what these make.

The draws of an image depend on seed, epoch and its row in the manifest alone, so neither the size of a batch nor
its order changes what becomes of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, NormalizeIntensityd, Resized
from torch import Tensor
from torch.nn import functional as F

from nc_medfl.errors import UserError

#: Mean and standard deviation of ImageNet's red, green and blue channels, on a scale of 0 to 1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: Random numbers an image gets each epoch.
DRAWS = 8
_ANGLE, _ACROSS, _DOWN, _ZOOM, _FLIP, _GAMMA, _NOISE, _NOISE_START = range(DRAWS)
_NOISE_STARTS = 2**18

Data = Mapping[str, Any]
#: Height and width in pixels, or the side of a square.
Shape = int | tuple[int, int]
Step = Callable[[Data], Any]


@dataclass(frozen=True)
class Normalisation:
    """What is taken off pixel values in [0, 1], and what they are then divided by.

    Attributes:
        mean: one number, or one a channel.
        std: likewise, above 0.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def named(cls, name: str, channels: int = 1) -> Normalisation:
        """``unit`` leaves [0, 1]; ``imagenet`` takes ImageNet's statistics (their mean where there is one channel).

        Raises:
            UserError: for another name.
        """
        if name == "unit":
            return cls()
        if name != "imagenet":
            raise UserError(f"normalisation '{name}': there are 'unit' and 'imagenet'. Name one of them.")
        if channels == 3:
            return cls(IMAGENET_MEAN, IMAGENET_STD)
        return cls((sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,))


@dataclass(frozen=True)
class AugmentationSettings:
    """Bounds of the random changes to a training image; 0 turns one off.

    Attributes:
        rotate: degrees to either side.
        translate: share of the side, across and down.
        zoom: a zoom between 1 - zoom and 1 + zoom.
        flip: probability of mirroring left and right. The heart lies on the left, so 0 unless wanted.
        gamma: exponent between exp(-gamma) and exp(gamma) on values in [0, 1].
        noise: largest standard deviation of Gaussian noise, on values in [0, 1].
    """

    rotate: float = 7.0
    translate: float = 0.05
    zoom: float = 0.08
    flip: float = 0.0
    gamma: float = 0.2
    noise: float = 0.02


def draw_table(rows: int, seed: int, epoch: int) -> Tensor:
    """Random numbers of every image in an epoch, uniform in [-1, 1), float32 ``[rows, 8]``.

    Args:
        rows: images in the store.
        seed: of the site.
        epoch: unique over rounds and epochs.
    """
    rng = np.random.default_rng([seed, epoch, 1])
    return torch.from_numpy(rng.random((rows, DRAWS), dtype=np.float32) * 2 - 1)


def height_and_width(shape: Shape) -> tuple[int, int]:
    """A shape as height and width."""
    return (shape, shape) if isinstance(shape, int) else shape


def eval_transform(stored: Shape, size: Shape, normalisation: Normalisation, channels: int = 1) -> Compose:
    """What every image goes through, without anything random.

    Args:
        stored: side of the stored images, pixels, or height and width.
        size: side the network reads, pixels, or height and width; the image is resized where it differs (averaging
            over areas where it shrinks).
        normalisation: applied last.
        channels: 1, or 3: equal ones, or those of a colour picture.

    Returns:
        A transform of a dictionary whose ``image`` is uint8 ``[B, H, W]``, or ``[B, 3, H, W]`` where the pictures are
        in colour; it becomes float32 ``[B, channels, H, W]``. Other entries stay.
    """
    return Compose([*_scale(stored, size), *_finish(normalisation, channels)])


def train_transform(
    stored: Shape,
    size: Shape,
    normalisation: Normalisation,
    channels: int = 1,
    augmentation: AugmentationSettings | None = None,
    seed: int = 0,
) -> Compose:
    """As :func:`eval_transform`, with random changes before normalising.

    Args:
        stored: as there.
        size: as there.
        normalisation: as there.
        channels: as there.
        augmentation: bounds of the changes; None for the defaults.
        seed: of the noise; all else comes from the draws.

    Returns:
        A transform of a dictionary with ``image`` and ``draws`` (``[B, 8]``, rows of :func:`draw_table`).
    """
    augmentation = augmentation or AugmentationSettings()
    changes = [BatchAffined(augmentation), BatchGammad(augmentation), BatchNoised(augmentation, size, seed, channels)]
    return Compose([*_scale(stored, size), *changes, *_finish(normalisation, channels)])


def _scale(stored: Shape, size: Shape) -> list[Step]:
    before, after = height_and_width(stored), height_and_width(size)
    steps: list[Step] = [Unitd()]
    if after != before:
        mode = "area" if after < before else "bilinear"
        steps += [Planesd(flat=True), Resized("image", spatial_size=after, mode=mode), Planesd(flat=False)]
    return [*steps, PlainTensord()]


def _finish(normalisation: Normalisation, channels: int) -> list[Step]:
    mean, std = (
        np.asarray(values, dtype=np.float32).reshape(-1, 1, 1) for values in (normalisation.mean, normalisation.std)
    )
    return [Channelsd(channels), NormalizeIntensityd("image", subtrahend=mean, divisor=std), PlainTensord()]


class Unitd:
    """Bytes as values in [0, 1]: to the bit MONAI's ScaleIntensityRange, which goes over the image four times."""

    def __call__(self, data: Data) -> dict[str, Any]:
        return {**data, "image": data["image"].float().div_(255)}


class PlainTensord:
    """Take MONAI's metadata off the image: nothing here uses it, and every operation on it would carry it on."""

    def __call__(self, data: Data) -> dict[str, Any]:
        image = data["image"]
        return {**data, "image": image.as_tensor() if hasattr(image, "as_tensor") else image}


class Planesd:
    """Lay the colours of a batch one after the other, as MONAI takes ``[B, H, W]``; back again where not ``flat``."""

    def __init__(self, flat: bool) -> None:
        self.flat = flat

    def __call__(self, data: Data) -> dict[str, Any]:
        image = data["image"]
        if self.flat:
            return {**data, "image": image.flatten(0, -3), "planes": image.shape[:-2]}
        out = {**data, "image": image.reshape(*data["planes"], *image.shape[-2:])}
        return {name: value for name, value in out.items() if name != "planes"}


class Channelsd:
    """Give a batch of grey images ``[B, H, W]`` equal channels, ``[B, channels, H, W]``; colours stay as they are."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __call__(self, data: Data) -> dict[str, Any]:
        image = data["image"]
        return {**data, "image": (image[:, None] if image.ndim == 3 else image).expand(-1, self.channels, -1, -1)}


class BatchAffined:
    """Turn, shift, zoom and mirror each image by its own draws; what comes from outside is black, as the padding."""

    def __init__(self, settings: AugmentationSettings) -> None:
        self.settings = settings

    def __call__(self, data: Data) -> dict[str, Any]:
        s, image, draws = self.settings, data["image"], data["draws"]
        if not (s.rotate or s.translate or s.zoom or s.flip):
            return dict(data)
        angle = draws[:, _ANGLE] * math.radians(s.rotate)
        scale = 1 / (1 + draws[:, _ZOOM] * s.zoom)
        mirror = torch.where((draws[:, _FLIP] + 1) / 2 < s.flip, -1.0, 1.0)
        cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
        # A shift by a share of the side is twice that on torch's grid from -1 to 1.
        across, down = draws[:, _ACROSS] * s.translate * 2, draws[:, _DOWN] * s.translate * 2
        theta = torch.stack([cosine * mirror, -sine, across, sine * mirror, cosine, down], dim=1).view(-1, 2, 3)
        planes = image[:, None] if image.ndim == 3 else image
        grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
        moved = F.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return {**data, "image": moved.view_as(image)}


class BatchGammad:
    """Brighten or darken each image by an exponent of its own."""

    def __init__(self, settings: AugmentationSettings) -> None:
        self.bound = settings.gamma

    def __call__(self, data: Data) -> dict[str, Any]:
        if not self.bound:
            return dict(data)
        exponent = _spread(torch.exp(data["draws"][:, _GAMMA] * self.bound), data["image"])
        # Rounding in the steps before can leave a value just below 0, which has no power.
        return {**data, "image": data["image"].clamp(0, 1) ** exponent}


class BatchNoised:
    """Add Gaussian noise of each image's own strength.

    The noise is cut from one long strip of normal numbers, at each image's own place: independent of the rest of
    the batch, the same on every device, and far cheaper than a generator an image.
    """

    def __init__(self, settings: AugmentationSettings, size: Shape, seed: int, channels: int = 1) -> None:
        self.bound = settings.noise
        height, width = height_and_width(size)
        strip = np.random.default_rng([seed, 2]).standard_normal(
            height * width * channels + _NOISE_STARTS if self.bound else 0, dtype=np.float32
        )
        self.strip = torch.from_numpy(strip)

    def __call__(self, data: Data) -> dict[str, Any]:
        if not self.bound:
            return dict(data)
        image, draws = data["image"], data["draws"]
        self.strip = self.strip.to(image.device)
        start = ((draws[:, _NOISE_START] + 1) / 2 * (_NOISE_STARTS - 1)).long()
        noise = self.strip.unfold(0, image[0].numel(), 1)[start].view_as(image)
        strength = (draws[:, _NOISE] + 1) / 2 * self.bound
        return {**data, "image": image + noise * _spread(strength, image)}


def _spread(values: Tensor, image: Tensor) -> Tensor:
    """One number an image, in a shape that goes with the batch."""
    return values.reshape(-1, *[1] * (image.ndim - 1))
