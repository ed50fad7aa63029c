"""From descriptions of hospitals to folders of DICOM files with label tables."""

from __future__ import annotations

import multiprocessing
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import Dataset

from nc_medfl.data.engine import begin_worker, quiet_start
from nc_medfl.data.synthetic.boxes import box_rows, boxes_text
from nc_medfl.data.synthetic.drawing import draw_radiograph, draw_with_boxes
from nc_medfl.data.synthetic.hospitals import DEFAULT_HOSPITALS, Hospital
from nc_medfl.data.synthetic.prevalence import sample_findings
from nc_medfl.data.synthetic.scanner import Person, ScannerStyle, radiograph_dataset, write_dicom
from nc_medfl.data.synthetic.tables import label_map_text, table_row, table_text
from nc_medfl.errors import UserError

IMAGES, LABELS, LABEL_MAP, BOXES = "dicom", "labels.csv", "label_map.yaml", "boxes.csv"

_BoxRow = list[str]

_PERSISTENCE = 0.9  # chance that a finding is still there on a patient's next film
_FIRST_DAY = date(2024, 1, 1)
_BATCH = 16


@dataclass(frozen=True)
class HospitalFolder:
    """Where a synthetic hospital lies: its DICOM folder, its label table, its label map, the places of findings."""

    name: str
    images: Path
    labels: Path
    label_map: Path
    boxes: Path


@dataclass(frozen=True)
class Exposure:
    """One film to be made. ``seed`` is its own, ``body`` its patient's."""

    file: str
    findings: tuple[str, ...]
    person: Person
    seed: tuple[int, ...]
    body: int


@dataclass(frozen=True)
class _Task:
    folder: Path
    exposure: Exposure
    scanner: ScannerStyle
    size: int


def plan_hospital(hospital: Hospital, patients: int, seed: int) -> list[Exposure]:
    """Decide who comes to a hospital and what each film shows, without drawing any.

    Args:
        hospital: its description.
        patients: how many come.
        seed: the seed of the whole federation; each hospital takes its own chance from it and its name.
    """
    root = (seed, zlib.crc32(hospital.name.encode()))
    rng = np.random.default_rng(root)
    illness = sample_findings(patients, rng, floor=hospital.floor, emphasis=hospital.emphasis, missing=hospital.missing)
    fewest, most = hospital.images_per_patient
    exposures = []
    for number, findings in enumerate(illness, start=1):
        sex, age = str(rng.choice(["M", "F"], p=[0.565, 0.435])), int(np.clip(rng.normal(47, 16.5), 18, 89))
        day, body = _FIRST_DAY + timedelta(days=int(rng.integers(365))), int(rng.integers(2**62))
        for visit in range(int(rng.integers(fewest, most + 1))):
            shown = tuple(f for f in findings if visit == 0 or rng.random() < _PERSISTENCE)
            person = Person(
                patient_id=f"{hospital.name.upper().replace('_', '')[:8]}{number:05d}",
                name=f"SYNTHETIC^{number:04d}",
                sex=sex,
                birth_year=_FIRST_DAY.year - age,
                study_date=(day + timedelta(days=30 * visit)).strftime("%Y%m%d"),
                view="AP" if rng.random() < hospital.ap_share else "PA",
                entropy=("nc_medfl synthetic", str(seed), hospital.name),
                study=visit,
                accession=f"{number:05d}{visit:02d}",
            )
            exposures.append(Exposure(f"{number:05d}_{visit:02d}.dcm", shown, person, (*root, number, visit), body))
    return exposures


def make_hospitals(
    out: Path,
    *,
    hospitals: Sequence[Hospital] | None = None,
    patients_per_hospital: int = 120,
    seed: int = 0,
    size: int = 192,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[HospitalFolder]:
    """Write synthetic hospitals as ``OUT/<hospital>/{dicom/*.dcm, labels.csv, label_map.yaml, boxes.csv}``.

    The same arguments give the same bytes, whatever the number of workers. A hospital made here before in ``out`` is
    made afresh.

    Args:
        out: the folder to write into; made if missing.
        hospitals: their descriptions; the four of :data:`DEFAULT_HOSPITALS` if not given.
        patients_per_hospital: each has one to three films, two on average.
        seed: decides everything.
        size: side of the drawn picture in pixels.
        workers: processes to draw with; as many as there are cores if not given, 1 draws in this process.
        progress: called with (films written, films in all).

    Raises:
        UserError: if two hospitals share a name, a number is out of range, or a folder holds something else.
    """
    chosen = DEFAULT_HOSPITALS if hospitals is None else tuple(hospitals)
    _check(chosen, patients_per_hospital, workers)
    folders = [_open_folder(Path(out), hospital) for hospital in chosen]
    tasks: list[_Task] = []
    for hospital, folder in zip(chosen, folders, strict=True):
        exposures = plan_hospital(hospital, patients_per_hospital, seed)
        tasks += [_Task(folder.images, exposure, hospital.scanner, size) for exposure in exposures]
        _write_table(hospital, folder, exposures)
    done = 0
    boxes: dict[Path, list[_BoxRow]] = {folder.images: [] for folder in folders}
    for written in _run(tasks, workers or available_cores()):
        for task, rows in zip(tasks[done : done + len(written)], written, strict=True):
            boxes[task.folder] += rows
        done += len(written)
        if progress is not None:
            progress(done, len(tasks))
    for folder in folders:
        folder.boxes.write_text(boxes_text(boxes[folder.images]), encoding="utf-8", newline="\n")
    return folders


def make_radiograph_dicom(
    path: Path,
    *,
    findings: Collection[str] = (),
    style: ScannerStyle | None = None,
    seed: int = 0,
    size: int = 192,
    person: Person | None = None,
    severity: float | None = None,
) -> Dataset:
    """Write one synthetic radiograph, for tests and examples.

    Args:
        path: the file to write.
        findings: what it shows.
        style: the machine; a plain 12-bit CR if not given.
        seed: decides picture, grain and UIDs.
        size: side of the drawn picture in pixels.
        person: the invented patient.
        severity: how plain the findings are, 0 to 1.

    Returns:
        The data set as written.
    """
    rng = np.random.default_rng([seed, 0])
    person = person or Person(f"SYNTHETIC{seed:05d}", entropy=("nc_medfl synthetic", str(seed)))
    picture = draw_radiograph(findings, rng, size=size, view=person.view, sex=person.sex, severity=severity)
    dataset = radiograph_dataset(picture, style or ScannerStyle(), person, rng)
    write_dicom(Path(path), dataset)
    return dataset


def available_cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _check(hospitals: Sequence[Hospital], patients: int, workers: int | None) -> None:
    names = [hospital.name for hospital in hospitals]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"synthetic hospitals: the name '{twice[0]}' stands twice. Give each its own.")
    if patients < 1:
        raise UserError(f"synthetic hospitals: {patients} patients a hospital are too few. Ask for 1 or more.")
    if workers is not None and workers < 1:
        raise UserError(f"synthetic hospitals: {workers} workers cannot work. Ask for 1 or more.")


def _open_folder(out: Path, hospital: Hospital) -> HospitalFolder:
    home = out / hospital.name
    folder = HospitalFolder(hospital.name, home / IMAGES, home / LABELS, home / LABEL_MAP, home / BOXES)
    if folder.images.is_dir() and any(folder.images.iterdir()):
        if not folder.label_map.is_file():
            raise UserError(f"{folder.images}: holds files of another origin. Choose another folder, or empty it.")
        for stale in folder.images.glob("*.dcm"):
            stale.unlink()
    folder.images.mkdir(parents=True, exist_ok=True)
    return folder


def _write_table(hospital: Hospital, folder: HospitalFolder, exposures: Sequence[Exposure]) -> None:
    rows = []
    for exposure in exposures:
        by_name = hospital.table.image_key == "filename"
        image = exposure.file if by_name else exposure.person.uid("instance")
        rng = np.random.default_rng((*exposure.seed, 1))
        rows.append(table_row(hospital.table, image, exposure.person.patient_id, exposure.findings, rng))
    folder.label_map.write_text(label_map_text(hospital), encoding="utf-8", newline="\n")
    folder.labels.write_text(table_text(hospital.table, rows), encoding="utf-8", newline="\n")


def _run(tasks: Sequence[_Task], workers: int) -> Iterator[list[list[_BoxRow]]]:
    batches = [tasks[start : start + _BATCH] for start in range(0, len(tasks), _BATCH)]
    if workers == 1 or len(batches) == 1:
        yield from map(_make_batch, batches)
        return
    # Fresh processes: a fork of one that already runs threads (torch, OpenCV) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(batches)), mp_context=context, initializer=_begin) as pool:
        with quiet_start():
            done = pool.map(_make_batch, batches)
        yield from done


def _begin() -> None:
    begin_worker()
    cv2.setNumThreads(1)


def _make_batch(tasks: Sequence[_Task]) -> list[list[_BoxRow]]:
    """Write some films; lines of ``boxes.csv`` of each."""
    done = []
    for task in tasks:
        rng = np.random.default_rng((*task.exposure.seed, 0))
        person = task.exposure.person
        picture, boxes = draw_with_boxes(
            task.exposure.findings, rng, size=task.size, view=person.view, sex=person.sex, patient=task.exposure.body
        )
        dataset = radiograph_dataset(picture, task.scanner, person, rng)
        write_dicom(task.folder / task.exposure.file, dataset)
        done.append(box_rows(task.exposure.file, boxes, int(dataset.Rows), int(dataset.Columns)))
    return done
