"""Fitting into the stored square."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_medfl.data.resize import fit_square, shrink, shrink_levels


def test_shrinking_is_the_average_over_areas():
    # 4 x 4 to 2 x 2: each target pixel is the mean of its 2 x 2 block, times 255: 51, 102, 153, 204.
    blocks = np.kron(np.array([[0.2, 0.4], [0.6, 0.8]], dtype=np.float32), np.ones((2, 2), dtype=np.float32))
    square, box = fit_square(blocks, 2)
    np.testing.assert_array_equal(square, [[51, 102], [153, 204]])
    assert box == (0, 0, 2, 2)


def test_a_picture_of_the_stored_size_is_kept_to_the_bit():
    stored = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    square, _ = fit_square(stored.astype(np.float32) / np.float32(255), 64)
    np.testing.assert_array_equal(square, stored)


@pytest.mark.parametrize(
    ("shape", "aspect", "box"),
    [
        ((200, 100), 1.0, (0, 16, 64, 32)),  # twice as tall: 32 wide, 16 on each side
        ((100, 100), 2.0, (0, 16, 64, 32)),  # the same by pixels twice as tall as wide
        ((100, 200), 2.0, (0, 0, 64, 64)),
        ((10, 20), 1.0, (16, 0, 32, 64)),  # enlarged
    ],
)
def test_the_long_side_fits_in_physical_shape_and_is_centred(shape, aspect, box):
    square, found = fit_square(np.ones(shape, dtype=np.float32), 64, aspect)
    assert found == box
    top, left, height, width = box
    assert (square[top : top + height, left : left + width] == 255).all()
    assert square.sum() == 255 * height * width


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 90), cols=st.integers(1, 90), size=st.integers(16, 48), aspect=st.floats(0.1, 10))
def test_any_shape_fits(rows, cols, size, aspect):
    square, (top, left, height, width) = fit_square(np.full((rows, cols), 0.5, dtype=np.float32), size, aspect)
    assert square.shape == (size, size)
    assert max(height, width) == size
    assert 0 <= top <= size - height
    assert 0 <= left <= size - width


@pytest.mark.parametrize("factor", [4, 8, 16])
@pytest.mark.parametrize("high", [4095, 3000])
def test_levels_are_averaged_to_the_bit_as_cv2_does_at_once(factor, high):
    # 2,100 rows of noise: several strips, the last one short.
    levels = np.random.default_rng(factor).integers(0, 4096, (132 * 16, 16 * 9), dtype=np.uint16)
    height, width = levels.shape[0] // factor, levels.shape[1] // factor
    expected = shrink(np.clip(levels, 200, high), height, width)
    np.testing.assert_array_equal(shrink_levels(levels, height, width, 200, high), expected)
    means = np.clip(levels, 200, high).reshape(height, factor, width, factor).mean((1, 3))
    np.testing.assert_array_equal(expected, np.rint(means))


@pytest.mark.parametrize(("kind", "high"), [("uint16", 65535), ("int16", 900), ("uint8", 255)])
@pytest.mark.parametrize("side", [64, 60])
def test_levels_of_any_kind_and_size_are_averaged(kind, high, side):
    levels = np.random.default_rng(1).integers(0, high, (256, 256)).astype(kind)
    expected = shrink(np.clip(levels, 9, high - 9), side, side)
    np.testing.assert_array_equal(shrink_levels(levels, side, side, 9, high - 9), expected)
