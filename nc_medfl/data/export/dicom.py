"""De-identified DICOM at full resolution, made from the originals.

Three gates, one behind the other. A new data set is built from a whitelist of numbers and closed terms, so that
nothing is copied that isn't understood. What stands in it then goes through dicom-anonymizer, which applies the
Basic Application Level Confidentiality Profile of PS3.15 annex E with rules of ours for what is keyed or kept.
Pixels are decoded and written uncompressed: no comment of a codec, no unused bit, no byte behind the frame comes along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions
from pydicom.dataset import Dataset

from nc_medfl.data.dates import shifted_date
from nc_medfl.data.dicom.decode import decode_frame
from nc_medfl.data.dicom.deidentify import date_of, text
from nc_medfl.data.dicom.quarantine import Rejected
from nc_medfl.data.dicom.quiet import quiet_pydicom
from nc_medfl.data.dicom.reader import parse, read_bytes
from nc_medfl.data.export import folder as folders
from nc_medfl.data.export.elements import clean_dataset, file_meta, method_attributes, required_attributes, uid_of
from nc_medfl.data.export.folder import ExportSummary
from nc_medfl.data.private import FOLDER
from nc_medfl.data.radiograph import pixel_hash
from nc_medfl.data.sourcelist import Source, read_sources
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError

Progress = Callable[[int, int], None]

#: The edition of PS3.15 table E.1-1 that is applied.
PROFILE = "dicomfields_2026c"


def export_dicom(
    store: Store,
    salt: bytes,
    folder: Path | None = None,
    *,
    shift_dates: bool = False,
    read: Callable[[Source], bytes] = Source.read,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write a de-identified DICOM file of every image of a store that was prepared from DICOM.

    Each is read back by the package's reader and by pydicom's own decoders, and compared with the original's pixels.

    Args:
        store: what to export; its ``site_private/sources.csv`` says where the originals are.
        salt: the secret that the store was keyed with.
        folder: where to; ``export/dicom`` in the store if None.
        shift_dates: keep study dates, moved by the patient's secret offset, instead of dropping them.
        read: gives the bytes of an original.
        progress: called with (files done, files in all).

    Raises:
        UserError: if the store isn't from DICOM, an original is gone or changed, or a file doesn't read back.
    """
    sources = {source.sample_id: source for source in read_sources(store.folder) if source.sample_id}
    target, names = folders.begin(store, "dicom", ".dcm", folder)
    written = 0
    for index, row in enumerate(store.manifest.to_dict("records")):
        sample = str(row["sample_id"])
        dataset, content = deidentified(_original(sources, sample, row, read), row, salt, shift_dates=shift_dates)
        path = target / names[sample]
        written += folders.put(path, content)
        if not _reads_back(path, row, dataset):
            raise folders.mismatch(path)
        if progress:
            progress(index + 1, len(store))
    folders.finish(store, target, names)
    return ExportSummary(target, len(names), written)


def deidentified(
    content: bytes, row: Mapping[Any, Any], salt: bytes, *, shift_dates: bool = False
) -> tuple[Dataset, bytes]:
    """A de-identified file of one original.

    Args:
        content: the original's bytes.
        row: its line of the manifest.
        salt: the site's secret.
        shift_dates: keep the study date, moved.

    Returns:
        The data set, and the file's bytes. The same original and salt give the same bytes.

    Raises:
        UserError: if the original's pixels aren't those that the manifest is about.
    """
    with quiet_pydicom():
        try:
            original = parse(content)
            stored = decode_frame(original, text(original.file_meta, "TransferSyntaxUID")).stored
        except Rejected as rejected:
            raise _changed(row) from rejected
        if pixel_hash(stored) != row["pixel_sha256"]:
            raise _changed(row)
        clean = clean_dataset(original, stored, row)
        day = shifted_date(salt, str(row["patient_key"]), date_of(text(original, "StudyDate"))) if shift_dates else ""
        clean.StudyDate = day
        _apply_profile(clean, salt)
        required_attributes(clean)
        method_attributes(clean, shifted=shift_dates)
        clean.file_meta = file_meta(clean)
        buffer = BytesIO()
        clean.save_as(buffer, enforce_file_format=True)
    return clean, buffer.getvalue()


def _apply_profile(dataset: Dataset, salt: bytes) -> None:
    """Apply the profile on every level of nesting (the library itself does the outermost)."""
    anonymize_dataset(dataset, _rules(salt), delete_private_tags=True, base_rules_gen=_profile)
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _apply_profile(item, salt)


@cache
def _profile_actions() -> dict[Any, Any]:
    actions: dict[Any, Any] = initialize_actions(PROFILE)
    return actions


def _profile() -> dict[Any, Any]:
    return dict(_profile_actions())


def _rules(salt: bytes) -> dict[tuple[int, int], Callable[[Dataset, tuple[int, int]], None]]:
    """Rules in place of the profile's: keyed already, or kept by one of its options, or empty instead of a dummy."""
    kept = ("PatientID", "PatientSex", "PatientAge", "StudyDate")
    emptied = ("PatientName", "PatientBirthDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
    keyed = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    rules: dict[tuple[int, int], Any] = {}
    for keyword in kept:
        rules[_tag(keyword)] = _keep
    for keyword in emptied:
        rules[_tag(keyword)] = _empty
    for keyword in keyed:
        rules[_tag(keyword)] = _keyed(salt)
    return rules


def _tag(keyword: str) -> tuple[int, int]:
    tag = pydicom.tag.Tag(keyword)
    return tag.group, tag.element


def _keep(dataset: Dataset, tag: tuple[int, int]) -> None:
    """Leave an element as it is."""


def _empty(dataset: Dataset, tag: tuple[int, int]) -> None:
    if tag in dataset:
        dataset[tag].value = ""


def _keyed(salt: bytes) -> Callable[[Dataset, tuple[int, int]], None]:
    def replace(dataset: Dataset, tag: tuple[int, int]) -> None:
        if tag in dataset:
            dataset[tag].value = uid_of(salt, str(dataset[tag].value))

    return replace


def _original(
    sources: Mapping[str, Source], sample: str, row: Mapping[Any, Any], read: Callable[[Source], bytes]
) -> bytes:
    source = sources.get(sample)
    if source is None:
        raise UserError(
            f"{FOLDER}/sources.csv: has no line for sample {sample}. Export at the site that prepared the store, "
            "from its own folder."
        )
    if not isinstance(row["transfer_syntax"], str) or not row["transfer_syntax"]:
        raise UserError(f"sample {sample}: its original is no DICOM file. Use --write png or nifti.")
    try:
        content = read(source)
    except OSError as error:
        # Not the path, which may name a patient.
        raise UserError(
            f"sample {sample}: its original cannot be read ({error.strerror or type(error).__name__}). "
            f"{FOLDER}/sources.csv says where it was; put it back and export again."
        ) from error
    if hashlib.sha256(content).hexdigest() != row["source_sha256"]:
        raise _changed(row)
    return content


def _changed(row: Mapping[Any, Any]) -> UserError:
    return UserError(
        f"sample {row['sample_id']}: its original is not the file that was prepared. Prepare again, then export."
    )


def _reads_back(path: Path, row: Mapping[Any, Any], dataset: Dataset) -> bool:
    """Whether both readers find the original's pixels in the file, and its identifiers are the keyed ones."""
    try:
        content = path.read_bytes()
        with quiet_pydicom():
            radiograph = read_bytes(content)
            other = pydicom.dcmread(BytesIO(content))
            pixels = other.pixel_array
    except (Rejected, OSError, ValueError, AttributeError, RuntimeError):
        return False
    return bool(
        radiograph.pixel_sha256 == row["pixel_sha256"]
        and pixel_hash(pixels) == row["pixel_sha256"]
        and radiograph.identity.patient_id == row["patient_key"]
        and str(other.SOPInstanceUID) == str(dataset.SOPInstanceUID)
    )
