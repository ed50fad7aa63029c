"""DICOM files made in the test, one small chest radiograph in any encoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from prepare_support import FILES, contents, settings
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, RLELossless, generate_uid

EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
_ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "1.2.840.10008.1.2.4.57": lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=4, bitspersample=16),
    "1.2.840.10008.1.2.4.70": lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=1, bitspersample=16),
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
    "1.2.840.10008.1.2.4.90": lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True, codecformat="j2k"),
    "1.2.840.10008.1.2.4.201": lambda a: imagecodecs.htj2k_encode(a, reversible=True),
}


def dicom_dataset(pixels: np.ndarray, syntax: str = EXPLICIT, **elements: Any) -> Dataset:
    """A chest radiograph with these stored values; elements override the header, None deletes one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = elements.pop("SOPInstanceUID", generate_uid())
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = generate_uid()
    dataset.PatientID, dataset.PatientSex, dataset.PatientAge = "P1", "F", "062Y"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    raw = pixels.view(f"u{pixels.dtype.itemsize}")
    if syntax in _ENCODERS:
        dataset.PixelData = encapsulate([_ENCODERS[syntax](raw)])
    else:
        order = ">" if syntax == BIG_ENDIAN else "<"
        dataset.PixelData = raw.astype(raw.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OB" if syntax in _ENCODERS else "OW"
    if syntax == RLELossless:
        dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT)
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return dataset


@pytest.fixture(scope="session")
def make_dicom() -> Callable[..., Path]:
    """Write ``dicom_dataset(pixels, syntax, **elements)`` to a path and return it."""

    def write(path: Path, pixels: np.ndarray, syntax: str = EXPLICIT, **elements: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        dicom_dataset(pixels, syntax, **elements).save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """A smooth 12-bit picture with noise, 96 x 80, uint16."""
    rows, cols = np.mgrid[0:96, 0:80]
    smooth = 2000 + 1200 * np.sin(rows / 15) + 600 * np.cos(cols / 9)
    return np.clip(smooth + np.random.default_rng(7).normal(0, 40, smooth.shape), 0, 4095).astype(np.uint16)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, make_dicom: Callable[..., Path], picture: np.ndarray) -> Path:
    """Radiographs of 40 patients, some files that can't be used, a label table and a salt."""
    folder = tmp_path_factory.mktemp("archive")
    rows = ["file,Effusion,Mass"]
    for number in range(FILES):
        name = f"{number % 7}/im{number:03d}.dcm"
        pixels = np.roll(picture, number, axis=0) + np.uint16(number)
        make_dicom(folder / "images" / name, pixels, PatientID=f"SECRET-{number // 3}")
        rows.append(f"{name},{number % 2},{int(number % 11 == 0)}")
    (folder / "images" / "notes.txt").write_text("no image")
    (folder / "images" / "3" / "empty.dcm").write_bytes(b"")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "salt").write_bytes(b"0123456789abcdef")
    return folder


@pytest.fixture(scope="session")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store of the archive that was prepared without any disturbance."""
    from nc_medfl.data.prepare import prepare

    out = tmp_path_factory.mktemp("undisturbed") / "store"
    assert prepare(settings(archive, out)).counts == {"ok": FILES, "empty_file": 1, "not_dicom": 1}
    return contents(out)
