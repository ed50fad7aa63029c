"""A picture by its grey levels: what it shows, its statistics, and the fast way into a square."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from nc_medfl.data.picture import Picture, counts_of, extremes
from nc_medfl.data.resize import fit_square


def film(kind: str = "uint16", low: int = 0, high: int = 4095) -> np.ndarray:
    """Smooth anatomy with noise and a bright edge, 700 x 560, whose levels run from low to high."""
    rng = np.random.default_rng(3)
    smooth = cv2.GaussianBlur(rng.normal(size=(700, 560)), (0, 0), 25)
    smooth = smooth / smooth.std() + rng.normal(0, 0.05, smooth.shape)
    smooth[:, 400:403] += 3
    spread = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.rint(low + spread * (high - low)).astype(kind)


def ramp(stored: np.ndarray) -> np.ndarray:
    """A window over the middle half of the levels, clipped on both sides."""
    low, high = int(stored.min()), int(stored.max())
    x = (np.arange(low, high + 1) - low) / (high - low)
    return np.clip((x - 0.25) * 2, 0, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("uint16", 0, 4095), ("int16", -1024, 3000), ("uint8", 0, 255), ("int32", -5, 2**17 - 9)]
)
def test_the_display_image_is_each_levels_value_at_each_pixel(kind, low, high):
    stored = film(kind, low, high)
    picture = Picture(stored, low, ramp(stored))
    expected = np.clip(((stored.astype(np.float64) - low) / (high - low) - 0.25) * 2, 0, 1)
    np.testing.assert_allclose(picture.display(), expected, atol=1e-6)
    mean, deviation = picture.mean_and_deviation()
    assert mean == pytest.approx(expected.mean(), abs=1e-6)
    assert deviation == pytest.approx(expected.std(), abs=1e-6)


@pytest.mark.parametrize(("kind", "low", "high"), [("uint16", 0, 4095), ("int16", -1024, 3000), ("uint8", 0, 255)])
@pytest.mark.parametrize("aspect", [1.0, 0.7, 1.4])
def test_the_fast_way_into_a_square_is_that_of_averaging_what_is_shown(kind, low, high, aspect):
    stored = film(kind, low, high)
    picture = Picture(stored, low, ramp(stored))
    fast, box = picture.fit(128, aspect)
    slow, expected_box = fit_square(picture.display(), 128, aspect)
    assert box == expected_box
    # Half a level of rounding and half a grey level of it.
    assert np.abs(fast.astype(int) - slow.astype(int)).max() <= 2


def test_what_a_curve_shows_is_averaged_and_not_its_levels():
    stored = film()
    x = np.arange(4096)
    curve = (1 / (1 + np.exp(-4 * (x - 2048) / 1500))).astype(np.float32)
    picture = Picture(stored, 0, curve)
    difference = np.abs(picture.fit(128)[0].astype(int) - fit_square(picture.display(), 128)[0].astype(int))
    assert difference.max() == 0


def test_padding_is_not_averaged_into_its_neighbours():
    stored = film()
    stored[:, :280] = 0
    table = np.concatenate([[0.0], np.full(4095, 0.5)]).astype(np.float32)
    square, _ = Picture(stored, 0, table, smooth=False).fit(128)
    assert set(np.unique(square)) <= {0, 127, 128}  # nothing between black and grey: the border falls between columns


def test_a_steep_table_is_not_read_at_rounded_averages():
    # Ten levels only: an average rounded to one would be off by up to a twentieth.
    stored = film(low=0, high=9)
    picture = Picture(stored, 0, np.linspace(0, 1, 10, dtype=np.float32))
    fast, slow = picture.fit(100)[0], fit_square(picture.display(), 100)[0]
    assert np.abs(fast.astype(int) - slow.astype(int)).max() <= 1


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "int32"])
def test_levels_are_counted_as_numpy_counts_them(kind):
    stored = film(kind, 3, 100)
    values, counts = np.unique(stored, return_counts=True)
    assert extremes(stored) == (values[0], values[-1])
    expected = np.zeros(103, dtype=np.int64)
    expected[values.astype(int)] = counts
    np.testing.assert_array_equal(counts_of(stored, 0, 102), expected)
