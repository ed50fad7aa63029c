"""Transforms: numbers by hand, MONAI and scipy as outside references, one image's fate independent of its batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Resize
from scipy.ndimage import affine_transform

from nc_medfl.data.transforms import (
    DRAWS,
    AugmentationSettings,
    Normalisation,
    draw_table,
    eval_transform,
    train_transform,
)
from nc_medfl.errors import UserError

UNIT = Normalisation()
OFF = AugmentationSettings(rotate=0, translate=0, zoom=0, flip=0, gamma=0, noise=0)
#: Places of the draws in a row of the table.
ANGLE, ACROSS, DOWN, ZOOM, FLIP, GAMMA, NOISE, NOISE_START = range(8)


def batch(images: int = 5, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (images, side, side)).astype(np.uint8))


def apply(settings: AugmentationSettings, image: torch.Tensor, **draws: float) -> torch.Tensor:
    """Training transform with all draws 0 but those given by name."""
    table = torch.zeros(len(image), DRAWS)
    for name, value in draws.items():
        table[:, globals()[name.upper()]] = value
    side = image.shape[-1]
    transform = train_transform(side, side, UNIT, augmentation=settings)
    result: torch.Tensor = transform({"image": image, "draws": table})["image"]
    return result[:, 0]


def test_evaluation_scales_bytes_to_one_and_normalises() -> None:
    # (51 / 255 - 0.1) / 0.5 = 0.2; black is (0 - 0.1) / 0.5 = -0.2; white (1 - 0.1) / 0.5 = 1.8.
    image = torch.tensor([[[0, 51], [255, 255]]], dtype=torch.uint8)
    out = eval_transform(2, 2, Normalisation((0.1,), (0.5,)))({"image": image})["image"]
    assert type(out) is torch.Tensor
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.tensor([[[[-0.2, 0.2], [1.8, 1.8]]]]))


def test_imagenet_statistics_are_averaged_for_one_channel_and_kept_for_three() -> None:
    image = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    one = eval_transform(4, 4, Normalisation.named("imagenet"))({"image": image})["image"]
    # (0.485 + 0.456 + 0.406) / 3 = 0.449 and (0.229 + 0.224 + 0.225) / 3 = 0.226: (1 - 0.449) / 0.226 = 2.438053
    assert one.shape == (2, 1, 4, 4)
    assert one.unique().item() == pytest.approx(2.438053, abs=1e-5)
    three = eval_transform(4, 4, Normalisation.named("imagenet", 3), channels=3)({"image": image})["image"]
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert three.shape == (2, 3, 4, 4)
    for image_ in three:
        assert image_.amax(dim=(1, 2)).tolist() == pytest.approx(expected, abs=1e-5)
        assert image_.amin(dim=(1, 2)).tolist() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match="there are 'unit' and 'imagenet'"):
        Normalisation.named("image-net")


def test_shrinking_averages_areas() -> None:
    image = batch(3, 8)
    out = eval_transform(8, 4, UNIT)({"image": image})["image"][:, 0]
    means = image.double().reshape(3, 4, 2, 4, 2).mean(dim=(2, 4)) / 255
    torch.testing.assert_close(out.double(), means, atol=1e-6, rtol=0)


def test_growing_interpolates() -> None:
    image = batch(2, 8)
    out = eval_transform(8, 12, UNIT)({"image": image})["image"][:, 0]
    expected = torch.stack([Resize((12, 12), mode="bilinear")(i[None].float() / 255)[0] for i in image])
    torch.testing.assert_close(out, torch.as_tensor(np.asarray(expected)), atol=1e-6, rtol=0)


def test_without_any_change_training_sees_what_evaluation_sees() -> None:
    image = batch()
    expected = eval_transform(32, 32, UNIT)({"image": image})["image"]
    out = train_transform(32, 32, UNIT, augmentation=OFF)({"image": image, "draws": draw_table(5, 0, 0)})["image"]
    torch.testing.assert_close(out, expected, atol=0, rtol=0)
    # All draws at 0 is the middle of every range: no turn, no shift, no change of contrast.
    defaults = apply(AugmentationSettings(noise=0), image)
    torch.testing.assert_close(defaults, expected[:, 0], atol=1e-5, rtol=0)


def test_turn_zoom_and_shift_are_those_of_scipy() -> None:
    image = batch(1, 21)
    settings = AugmentationSettings(rotate=10, translate=0.1, zoom=0.2, gamma=0, noise=0)
    out = apply(settings, image, angle=0.5, zoom=-0.5, across=0.3, down=-0.6)[0].numpy()
    # scipy pulls too: input = matrix @ output + offset in (row, column), here about the centre. Angle 5 degrees, zoom
    # 0.9 (so pixels are pulled from 1/0.9 as far out), shifts 0.03 and -0.06 of the side.
    angle, zoom = math.radians(5), 0.9
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) / zoom
    centre = np.array([10.0, 10.0])
    offset = centre - matrix @ centre + np.array([-0.06, 0.03]) * 21
    expected = affine_transform(image[0].numpy() / 255.0, matrix, offset, order=1, mode="grid-constant")
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_shift_by_whole_pixels_and_mirror_by_hand() -> None:
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4) * 17
    shift = AugmentationSettings(rotate=0, translate=0.25, zoom=0, gamma=0, noise=0)
    out = (apply(shift, image, across=1.0)[0] * 15).round().int()
    # A quarter of 4 pixels: each pixel takes the value one to its right, the last column comes from outside.
    assert out.tolist() == [[1, 2, 3, 0], [5, 6, 7, 0], [9, 10, 11, 0], [13, 14, 15, 0]]
    mirror = AugmentationSettings(rotate=0, translate=0, zoom=0, flip=0.5, gamma=0, noise=0)
    kept, turned = apply(mirror, image, flip=0.2)[0], apply(mirror, image, flip=-0.2)[0]
    torch.testing.assert_close(kept, image[0] / 255, atol=1e-6, rtol=0)
    torch.testing.assert_close(turned, (image[0] / 255).flip(-1), atol=1e-6, rtol=0)


def test_images_are_never_mirrored_unless_asked_for() -> None:
    table = draw_table(20_000, 0, 0)
    assert AugmentationSettings().flip == 0
    assert table[:, FLIP].min() >= -1
    low = apply(AugmentationSettings(rotate=0, translate=0, zoom=1e-9, gamma=0, noise=0), batch(1), flip=-1.0)
    torch.testing.assert_close(low[0], batch(1)[0] / 255, atol=1e-5, rtol=0)


def test_gamma_by_hand() -> None:
    # exp(0.5 * ln 4) = 2: 0.2 squared is 0.04. exp(-0.5 * ln 4) = 0.5: the root of 1 is 1, of 0 is 0.
    settings = AugmentationSettings(rotate=0, translate=0, zoom=0, gamma=math.log(4), noise=0)
    image = torch.tensor([[[0, 51], [255, 51]]], dtype=torch.uint8)
    torch.testing.assert_close(apply(settings, image, gamma=0.5)[0], torch.tensor([[0, 0.04], [1, 0.04]]))
    root = math.sqrt(0.2)
    torch.testing.assert_close(apply(settings, image, gamma=-0.5)[0], torch.tensor([[0, root], [1, root]]))


def test_noise_is_gaussian_of_the_drawn_strength() -> None:
    settings = AugmentationSettings(rotate=0, translate=0, zoom=0, gamma=0, noise=0.1)
    image = torch.full((8, 128, 128), 128, dtype=torch.uint8)
    strongest = apply(settings, image, noise=1.0) - 128 / 255
    assert strongest.mean().item() == pytest.approx(0, abs=0.002)
    assert strongest.std().item() == pytest.approx(0.1, rel=0.02)
    inside = (strongest.abs() < 0.1).float().mean().item()
    assert inside == pytest.approx(0.6827, abs=0.01)  # a normal variable lies within one deviation so often
    none = apply(settings, image, noise=-1.0) - 128 / 255
    assert none.abs().max() < 1e-6
    half = apply(settings, image, noise=0.0, noise_start=0.7) - 128 / 255
    assert half.std().item() == pytest.approx(0.05, rel=0.02)
    assert not torch.allclose(half * 2, strongest, atol=0.01)


def test_what_becomes_of_an_image_does_not_depend_on_its_batch() -> None:
    image, draws = batch(7), draw_table(7, 3, 1)
    transform = train_transform(32, 24, Normalisation.named("imagenet"), seed=3)
    whole = transform({"image": image, "draws": draws})["image"]
    order = torch.tensor([4, 1])
    part = transform({"image": image[order], "draws": draws[order]})["image"]
    torch.testing.assert_close(part, whole[order], atol=1e-6, rtol=0)


def test_draws_are_the_same_for_seed_and_epoch_and_differ_otherwise() -> None:
    first = draw_table(10, 1, 2)
    assert first.shape == (10, DRAWS)
    assert torch.equal(first, draw_table(10, 1, 2))
    assert not torch.equal(first, draw_table(10, 1, 3))
    assert not torch.equal(first, draw_table(10, 2, 2))
    many = draw_table(50_000, 0, 0)
    assert many.min() >= -1
    assert many.max() <= 1
    torch.testing.assert_close(many.mean(dim=0), torch.zeros(DRAWS), atol=0.02, rtol=0)
    torch.testing.assert_close(many.std(dim=0), torch.full((DRAWS,), 3**-0.5), atol=0.02, rtol=0)


def test_both_are_monai_transforms() -> None:
    assert isinstance(eval_transform(8, 8, UNIT), Compose)
    assert isinstance(train_transform(8, 8, UNIT), Compose)
