"""Real pixels under changed headers, read by us and by a plain reading of the standard in float64.

The reference works on every pixel, without tables of grey levels, and shares no code with the package. It knows the
modality LUT or rescale (PS3.3 C.11.1), the VOI LUT or first usable window (C.11.2), padding (C.7.5.1.1.2), polarity,
and the project's own fallback to percentiles.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from nc_medfl.data.dicom.explain import explain_bytes

Change = Callable[[Dataset], None]
SIDE = 160


def reference(data: Dataset) -> np.ndarray:
    """The display image, float64 in [0, 1], bone bright."""
    stored = data.pixel_array.astype(np.float64)
    padding = padded(stored, data)
    units = modality(stored, data)
    shown = voi(units, data)
    if shown is not None and spread(shown[~padding]) < 0.02:
        shown = None
    if shown is None:
        low, high = np.percentile(units[~padding], (0.5, 99.5))
        shown = np.clip((units - low) / (high - low), 0, 1)
    if data.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.where(padding, 0.0, shown)


def spread(values: np.ndarray) -> float:
    low, high = np.percentile(values, (0.5, 99.5))
    return high - low


def padded(stored: np.ndarray, data: Dataset) -> np.ndarray:
    if "PixelPaddingValue" not in data:
        return np.zeros(stored.shape, dtype=bool)
    ends = sorted((data.PixelPaddingValue, data.get("PixelPaddingRangeLimit", data.PixelPaddingValue)))
    return (stored >= ends[0]) & (stored <= ends[1])


def modality(stored: np.ndarray, data: Dataset) -> np.ndarray:
    if "ModalityLUTSequence" in data:
        item = data.ModalityLUTSequence[0]
        table = np.asarray(item.LUTData, dtype=np.float64)
        return table[np.clip(stored - item.LUTDescriptor[1], 0, len(table) - 1).astype(int)]
    return stored * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))


def voi(units: np.ndarray, data: Dataset) -> np.ndarray | None:
    if "VOILUTSequence" in data:
        item = data.VOILUTSequence[0]
        entries, first, bits = item.LUTDescriptor
        table = np.asarray(item.LUTData, dtype=np.float64)
        if len(table) < entries:
            return None
        return table[np.clip(np.rint(units - first), 0, entries - 1).astype(int)] / (2**bits - 1)
    if "WindowCenter" not in data:
        return None
    function = data.get("VOILUTFunction", "LINEAR")
    for center, width in zip(np.atleast_1d(data.WindowCenter), np.atleast_1d(data.WindowWidth), strict=True):
        center, width = float(center), float(width)
        if function == "SIGMOID" and width > 0:
            return 1 / (1 + np.exp(-4 * (units - center) / width))
        if function == "LINEAR_EXACT" and width > 0:
            return np.clip((units - center) / width + 0.5, 0, 1)
        if function == "LINEAR" and width >= 1:
            if width == 1:
                return np.where(units <= center - 0.5, 0.0, 1.0)
            return np.clip((units - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    return None


def window(center: object, width: object, function: str = "") -> Change:
    def change(data: Dataset) -> None:
        data.WindowCenter, data.WindowWidth = center, width
        if function:
            data.VOILUTFunction = function

    return change


def rescale(slope: float, intercept: float) -> Change:
    def change(data: Dataset) -> None:
        data.RescaleSlope, data.RescaleIntercept = slope, intercept

    return change


def lut(name: str, entries: int, first: int, bits: int, *, falling: bool = False, short: int = 0) -> Change:
    def change(data: Dataset) -> None:
        rise = np.linspace(0, 1, entries) ** 1.5
        table = np.rint((1 - rise if falling else rise) * (2**bits - 1)).astype(int).tolist()
        item = Dataset()
        signed = first < 0
        item.add_new("LUTDescriptor", "SS" if signed else "US", [entries, first, bits])
        item.add_new("LUTData", "US", table[: entries - short])
        setattr(data, name, Sequence([item]))

    return change


def padding(value: int, limit: int | None = None) -> Change:
    def change(data: Dataset) -> None:
        data.add_new("PixelPaddingValue", "US", value)
        if limit is not None:
            data.add_new("PixelPaddingRangeLimit", "US", limit)

    return change


def inverted(data: Dataset) -> None:
    data.PhotometricInterpretation = "MONOCHROME1"


def signed(data: Dataset) -> None:
    """The same picture around zero."""
    pixels = data.pixel_array.astype(np.int32)
    data.PixelData = (pixels - int(pixels.mean())).astype("<i2").tobytes()
    data.PixelRepresentation, data.BitsStored, data.HighBit = 1, 16, 15


def eight_bits(data: Dataset) -> None:
    pixels = data.pixel_array.astype(np.float64)
    data.PixelData = (pixels / pixels.max() * 255).astype("u1").tobytes()
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data["PixelData"].VR = "OB"


FORMS: dict[str, tuple[Change, ...]] = {
    "as it is": (),
    "signed": (signed,),
    "eight bits": (eight_bits,),
}
UNITS: dict[str, Change] = {
    "no rescale": lambda _: None,
    "CT-like": rescale(1, -1024),
    "negative slope": rescale(-0.5, 3000),
    "fraction": rescale(0.00390625, 0.25),
    "modality LUT": lut("ModalityLUTSequence", 4096, 0, 12, falling=True),
}
SHOWN: dict[str, Change] = {
    "nothing": lambda _: None,
    "LINEAR": window("800", "1200"),
    "LINEAR_EXACT": window("800.5", "900.25", "LINEAR_EXACT"),
    "SIGMOID": window("900", "700", "SIGMOID"),
    "second is usable": window(["600", "700"], ["0", "1500"]),
    "width 1": window("1000", "1"),
    "far off": window("90000", "10"),
    "VOI LUT": lut("VOILUTSequence", 2048, 100, 10),
    "VOI LUT below zero": lut("VOILUTSequence", 4096, -1000, 16),
    "short VOI LUT": lut("VOILUTSequence", 1024, 0, 8, short=3),
}
ENDS: dict[str, tuple[Change, ...]] = {
    "plain": (),
    "MONOCHROME1": (inverted,),
    "padded": (padding(0, 40),),
    "MONOCHROME1, padded": (inverted, padding(0)),
}


def crop(path: Path) -> Dataset:
    """The middle of a real radiograph, uncompressed, without what shapes its display."""
    data = pydicom.dcmread(path)
    pixels = data.pixel_array
    top, left = (max(0, (side - SIDE) // 2) for side in pixels.shape)
    pixels = pixels[top : top + SIDE, left : left + SIDE]
    pixels = pixels.astype(np.int64) - min(0, int(pixels.min()))
    # Twelve bits, whatever it had.
    pixels = (pixels * (4095 / pixels.max())).astype("<u2")
    # A border as collimation leaves it.
    pixels[:10] = 0
    for keyword in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"):
        data.pop(keyword, None)
    for keyword in ("VOILUTSequence", "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit"):
        data.pop(keyword, None)
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PhotometricInterpretation, data.SamplesPerPixel = "MONOCHROME2", 1
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW"
    data["PixelData"].is_undefined_length = False
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def written(data: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    buffer = BytesIO()
    if syntax == RLELossless:
        data.compress(RLELossless, encoding_plugin="pydicom")
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        data = in_big_endian(data)
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def in_big_endian(data: Dataset) -> Dataset:
    """A data set that was never in another byte order, which pydicom would refuse to change."""
    fresh = Dataset()
    for element in data:
        if element.VR != "SQ":
            fresh.add(element)
        else:
            items = [Dataset() for _ in element.value]
            for item, old in zip(items, element.value, strict=True):
                item.update({inner.tag: inner for inner in old})
            fresh.add_new(element.tag, "SQ", Sequence(items))
    fresh.file_meta = data.file_meta
    fresh.PixelData = np.frombuffer(data.PixelData, "<u2").byteswap().tobytes()
    fresh["PixelData"].VR = "OW"
    return fresh


def cases() -> Iterator[tuple[str, list[Change]]]:
    kinds = (FORMS, UNITS, SHOWN, ENDS)
    for names in itertools.product(*kinds):
        form, unit, shown, end = names
        yield " / ".join(names), [*FORMS[form], UNITS[unit], SHOWN[shown], *ENDS[end]]


@pytest.fixture(scope="module")
def real(shared_data) -> list[Dataset]:
    paths = [shared_data / "dicom" / name for name in ("rsna_cr_chest.dcm", "RG2_J2KI.dcm")]
    return [crop(path) for path in paths]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("which", [0, 1])
def test_every_combination_of_header_and_form_is_read_as_the_standard_says(real, which):
    wrong = []
    for name, changes in cases():
        data = pydicom.dcmread(BytesIO(written(real[which].copy())))
        for change in changes:
            change(data)
        content = written(data)
        try:
            expected = reference(pydicom.dcmread(BytesIO(content)))
        except IndexError:
            expected = None
        found = explain_bytes(content)
        if expected is None or not np.isfinite(expected).all() or spread(expected) == 0:
            # Nothing to be seen: then no number is invented.
            ok = found.outcome == "constant_image" or (found.mean is not None and 0 <= found.mean <= 1)
        else:
            ok = found.mean is not None and (found.rows, found.cols) == expected.shape
            ok = ok and abs(found.mean - expected.mean()) < 1e-4 and abs(found.std - expected.std()) < 1e-4
        if not ok:
            wrong.append((name, found.outcome, found.mean, found.std, None if expected is None else expected.mean()))
    assert wrong == []


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_every_encoding_without_loss_is_read_alike(real, syntax):
    for base, change in itertools.product(real, (SHOWN["LINEAR"], SHOWN["VOI LUT"], SHOWN["nothing"])):
        data = pydicom.dcmread(BytesIO(written(base.copy())))
        change(data)
        plain = explain_bytes(written(data.copy()))
        other = explain_bytes(written(pydicom.dcmread(BytesIO(written(data))), syntax))
        assert (other.outcome, other.mean, other.std) == (plain.outcome, plain.mean, plain.std)
