"""Look-up tables and windows, by hand from PS3.3 C.11."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from nc_medfl.data.dicom import Rejected
from nc_medfl.data.dicom.display import read_lut, to_display, window


def header(**elements) -> Dataset:
    dataset = Dataset()
    dataset.BitsStored, dataset.PixelRepresentation = 16, 0
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def lut_item(first: int, bits: int, values: list[int], entries: int | None = None) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) if entries is None else entries, first, bits])
    item.add_new("LUTData", "US", values)
    return item


@pytest.fixture
def ramp() -> np.ndarray:
    """Stored values 0..999, 40 rows of each run."""
    return np.tile(np.arange(1000, dtype=np.uint16), (40, 1))


def test_linear_window_by_hand():
    # C.11.2.1.2.1 with c = 2048, w = 4096: y = (x - 2047.5) / 4095 + 0.5, so 0 at x = 0 and 1 at x = 4095.
    np.testing.assert_allclose(window(np.array([-5.0, 0, 4095, 5000]), 2048, 4096), [0, 0, 1, 1], atol=1e-12)
    # The note of that section: c = 0, w = 100 runs from -50 to 49; at -0.5 it is one half.
    np.testing.assert_allclose(window(np.array([-50.0, -0.5, 49]), 0, 100), [0, 0.5, 1], atol=1e-12)
    # w = 1 is a threshold at c - 0.5, which itself is still black.
    np.testing.assert_array_equal(window(np.array([9.0, 9.5, 10.0]), 10, 1), [0, 0, 1])


def test_linear_exact_window_by_hand():
    # C.11.2.1.3.2 with c = 0, w = 100: black up to -50, white from 50, (x / 100) + 0.5 between.
    x = np.array([-60.0, -50, -25, 0, 50, 60])
    np.testing.assert_allclose(window(x, 0, 100, "LINEAR_EXACT"), [0, 0, 0.25, 0.5, 1, 1], atol=1e-12)


def test_sigmoid_window_by_hand():
    # C.11.2.1.3.1 with c = 10, w = 4: 1 / (1 + exp(-(x - 10))); at 11: 1 / (1 + e^-1) = 0.7310586.
    x = np.array([-1e9, 9.0, 10.0, 11.0, 1e9])
    found = window(x, 10, 4, "SIGMOID")
    np.testing.assert_allclose(found, [0, 0.2689414, 0.5, 0.7310586, 1], atol=1e-7)


@pytest.mark.parametrize(("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (0, "SIGMOID"), (1, "CUBIC")])
def test_a_window_without_width_is_an_error(width, function):
    with pytest.raises(ValueError, match="no window"):
        window(np.zeros(2), 0, width, function)


def test_the_first_usable_window_is_taken(ramp):
    display = to_display(ramp, header(WindowCenter=["10", "500"], WindowWidth=["0", "1000"]), inverted=False)
    # c = 500, w = 1000: y = (x - 499.5) / 999 + 0.5 = x / 999.
    np.testing.assert_allclose(display.pixels[0], np.arange(1000) / 999, atol=1e-6)
    assert display.voi_source == "window:LINEAR"


@pytest.mark.parametrize(
    ("centers", "widths"), [(b"x\\500", b"9\\1000"), (b"1\\500", b"\\1000"), (b"nan\\500 ", b"9\\1000")]
)
def test_a_window_that_is_no_number_leaves_the_next_one_usable(ramp, centers, widths):
    # As the bytes of a file hold it: pydicom can't convert such an element as a whole.
    dataset = header()
    for keyword, raw in (("WindowCenter", centers), ("WindowWidth", widths)):
        tag = Tag(keyword)
        dataset._dict[tag] = RawDataElement(tag, "DS", len(raw), raw, 0, False, True)
    display = to_display(ramp, dataset, inverted=False)
    np.testing.assert_allclose(display.pixels[0], np.arange(1000) / 999, atol=1e-6)


def test_negative_slope_turns_values_not_polarity(ramp):
    # Modality value 1000 - x; the window 500/1000 then gives (1000 - x) / 999, so stored 1 is white.
    rescaled = header(RescaleSlope="-1", RescaleIntercept="1000", WindowCenter="500", WindowWidth="1000")
    display = to_display(ramp, rescaled, inverted=False)
    np.testing.assert_allclose(display.pixels[0], np.clip((1000 - np.arange(1000)) / 999, 0, 1), atol=1e-6)


def test_monochrome1_is_inverted_after_the_window(ramp):
    wide = header(WindowCenter="500", WindowWidth="1000")
    plain, inverted = to_display(ramp, wide, inverted=False), to_display(ramp, wide, inverted=True)
    np.testing.assert_allclose(inverted.pixels, 1 - plain.pixels, atol=1e-6)


def test_slope_of_zero_is_no_slope_and_its_intercept_counts(ramp):
    shown = to_display(
        ramp,
        header(RescaleSlope="0", RescaleIntercept="-1000", WindowCenter="-500", WindowWidth="1000"),
        inverted=False,
    )
    # PS3.3 C.11.2.1.2.1, by hand: values one thousand lower, about a centre one thousand lower.
    expected = np.clip((ramp - 1000.0 - (-500 - 0.5)) / 999 + 0.5, 0, 1)
    np.testing.assert_allclose(shown.pixels, expected, atol=1e-6)


def test_slope_of_zero_is_no_slope(ramp):
    with_slope = to_display(ramp, header(RescaleSlope="0", WindowCenter="500", WindowWidth="1000"), inverted=False)
    assert with_slope.voi_source == "window:LINEAR"
    assert with_slope.pixels[0, 999] == 1


def test_a_slope_beyond_all_numbers_is_no_slope(ramp):
    display = to_display(ramp, header(RescaleSlope="1e308", RescaleIntercept="0"), inverted=False)
    np.testing.assert_array_equal(display.pixels, to_display(ramp, header(), inverted=False).pixels)
    assert any("rescale" in note for note in display.notes)


def test_modality_lut_sequence_goes_before_the_window(ramp):
    # Values 0..999 become 999..0; inputs beyond the table clamp to its ends.
    table = Sequence([lut_item(0, 16, list(range(999, -1, -1)))])
    display = to_display(
        ramp, header(ModalityLUTSequence=table, WindowCenter="500", WindowWidth="1000"), inverted=False
    )
    np.testing.assert_allclose(display.pixels[0], np.arange(999, -1, -1) / 999, atol=1e-6)


def test_voi_lut_is_scaled_by_its_bits_and_preferred_to_a_window(ramp):
    # 10 bits: y = lut[x] / 1023; the table starts at 100, so 0..100 share its first entry.
    table = Sequence([lut_item(100, 10, list(range(0, 900)))])
    display = to_display(ramp, header(VOILUTSequence=table, WindowCenter="5", WindowWidth="5"), inverted=False)
    assert display.voi_source == "voi_lut"
    np.testing.assert_allclose(display.pixels[0, [0, 100, 600, 999]], np.array([0, 0, 500, 899]) / 1023, atol=1e-6)


def test_a_lut_for_signed_input_starts_below_zero():
    # 65036 as unsigned is -500 as signed; -500 is entry 0, 0 is entry 500, 600 clamps to the last entry.
    lut = read_lut(lut_item(65036, 10, list(range(1000))), True, signed_input=True)
    assert lut is not None
    np.testing.assert_array_equal(lut(np.array([-900.0, -500, 0, 600])), [0, 0, 500, 999])


@pytest.mark.parametrize("lowest", [0, 200, 600])
def test_a_first_input_below_zero_is_told_whatever_the_lowest_value_is(ramp, lowest):
    # As implicit encoding gives -500 of an unsigned picture; -500 is entry 0 and 499 is entry 999.
    table = Sequence([lut_item(65036, 10, list(range(1000)))])
    pixels = np.maximum(ramp, lowest)
    dataset = header(RescaleSlope="1", RescaleIntercept="-500", VOILUTSequence=table)
    display = to_display(pixels, dataset, inverted=False)
    assert display.voi_source == "voi_lut"
    np.testing.assert_allclose(display.pixels, pixels / 1023, atol=1e-6)


def test_a_short_lut_gives_percentiles_and_says_so(ramp):
    table = Sequence([lut_item(0, 12, [0, 4095], entries=4096)])
    display = to_display(ramp, header(VOILUTSequence=table), inverted=False)
    assert display.voi_source == "percentile"
    assert any("LUT" in note for note in display.notes)


def test_a_window_that_shows_nothing_gives_percentiles_and_says_so(ramp):
    display = to_display(ramp, header(WindowCenter="90000", WindowWidth="10"), inverted=False)
    assert display.voi_source == "percentile"
    assert any("degenerate" in note for note in display.notes)
    low, high = np.percentile(ramp, (0.5, 99.5))
    np.testing.assert_allclose(display.pixels, np.clip((ramp - low) / (high - low), 0, 1), atol=1e-6)


def test_padding_is_black_and_counts_for_no_percentile(ramp):
    padded = ramp.copy()
    padded[:20] = 65535
    display = to_display(padded, header(PixelPaddingValue=65535), inverted=True)
    assert (display.pixels[:20] == 0).all()
    low, high = np.percentile(ramp[20:], (0.5, 99.5))
    np.testing.assert_allclose(display.pixels[20:], 1 - np.clip((ramp[20:] - low) / (high - low), 0, 1), atol=1e-6)


def test_a_padding_range_includes_its_ends(ramp):
    display = to_display(ramp, header(PixelPaddingValue=0, PixelPaddingRangeLimit=99), inverted=True)
    assert (display.pixels[0, :100] == 0).all()
    assert display.pixels[0, 100] == 1


def test_signed_padding_is_compared_as_signed():
    stored = np.tile(np.arange(-100, 900, dtype=np.int16), (10, 1))
    stored[:5] = -2000
    dataset = header(PixelRepresentation=1, WindowCenter="0", WindowWidth="5000")
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)
    assert (to_display(stored, dataset, inverted=True).pixels[:5] == 0).all()


@pytest.mark.parametrize("row", [1, 16])
def test_what_a_window_shows_is_judged_by_all_rows(row):
    # 13 of 4160 pixels, 0.3 percent, lie inside the window: in a row that a sample of every sixteenth hasn't, or has.
    stored = np.tile(np.arange(64, dtype=np.uint16), (65, 1))
    stored[row, :13] = 4000
    display = to_display(stored, header(WindowCenter="2000", WindowWidth="100"), inverted=False)
    assert display.voi_source == "percentile"


@pytest.mark.parametrize(
    ("signed", "vr", "value", "left_out"),
    [
        # Twelve bits stored; the lowest value that they hold is -2048 or 0.
        (True, "SS", -2048, True),
        (True, "US", 65536 - 2048, True),
        (True, "US", 2048, True),  # -2048 as a pattern of twelve bits
        (True, "SS", -32768, False),
        (False, "US", 0, True),
        (False, "US", 65535, False),
        (False, "SS", -2000, False),
    ],
)
def test_padding_that_the_stored_bits_cannot_hold_is_no_pixels_value(signed, vr, value, left_out):
    levels = np.arange(-2048, 2048, dtype=np.int16) if signed else np.arange(4096, dtype=np.uint16)
    dataset = header(BitsStored=12, PixelRepresentation=int(signed))
    dataset.add_new("PixelPaddingValue", vr, value)
    display = to_display(np.tile(levels, (8, 1)), dataset, inverted=True)
    # Inverted, the lowest value is white, unless it is padding.
    assert display.pixels[0, 0] == (0 if left_out else 1)
    assert ("pixel padding left out" in display.notes) == left_out
    assert display.pixels[0, -1] == 0


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize("entries", [6, 7])
def test_eight_bit_entries_come_two_a_word_the_first_in_its_lower_byte(little_endian, entries):
    # PS3.3 C.11.1.1.1; a word's bytes are in the file's order.
    values = [0, 50, 100, 150, 200, 250, 255][:entries]
    padded = bytes([*values, 0][: entries + entries % 2])
    raw = padded if little_endian else b"".join(padded[n : n + 2][::-1] for n in range(0, len(padded), 2))
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, 0, 8])
    item.add_new("LUTData", "OW", raw)
    lut = read_lut(item, little_endian, signed_input=False)
    assert lut is not None
    np.testing.assert_array_equal(lut(np.arange(entries, dtype=float)), values)


def test_thirty_two_bits_need_no_table_of_all_values():
    stored = (np.arange(4096, dtype=np.uint32) * 1_000_003).reshape(64, 64)
    display = to_display(stored, header(BitsStored=32), inverted=False)
    assert display.pixels.min() == 0
    assert display.pixels.max() == 1


def test_a_modality_lut_of_one_value_leaves_a_constant_image(ramp):
    table = Sequence([lut_item(0, 8, [7] * 1000)])
    with pytest.raises(Rejected) as caught:
        to_display(ramp, header(ModalityLUTSequence=table), inverted=False)
    assert caught.value.outcome == "constant_image"
