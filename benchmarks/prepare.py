"""How fast radiographs are prepared, and in how much memory, beside named baselines in the same run.

    python benchmarks/prepare.py [--json FILE] [--images 8] [--size 512] [--pool-images 400] [--folder-files 100000]

Made radiographs of 2048 x 2048 pixels and 12 bits, in four encodings. Four comparisons:

- uncompressed, against the naive way: pydicom's pixel_array, float64, scikit-image's resize with anti-aliasing;
- compressed, against decoding alone with the same decoder, which nothing can beat;
- two processes against one in each encoding, start of the processes included, and the memory of a reading process;
- the memory of the process that the command runs in, for a folder of 100,000 small files and labels: the first run, and
  a second one that finds nothing changed. This takes some minutes; ``--folder-files 0`` leaves it out.

Ratio is our cost over the baseline's; lower is better.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID
from timing import save

from nc_medfl.data.sources import SourceFile
from nc_medfl.data.worker import Batch, initialise, read_batch

SIDE = 2048
MEMORY_LIMIT = 400
#: Encoding to transfer syntax, encoder, decoder.
ENCODINGS: dict[str, tuple[str, Callable[[Any], bytes] | None, Callable[[bytes], Any] | None]] = {
    "uncompressed": ("1.2.840.10008.1.2.1", None, None),
    "jpeg_lossless": (
        "1.2.840.10008.1.2.4.70",
        lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=1, bitspersample=16),
        imagecodecs.jpeg8_decode,
    ),
    "jpeg_ls": ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode, imagecodecs.jpegls_decode),
    "jpeg2000": (
        "1.2.840.10008.1.2.4.90",
        lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True, codecformat="j2k"),
        lambda frame: imagecodecs.jpeg2k_decode(frame, numthreads=1),
    ),
}


def radiograph(number: int, seed: int) -> np.ndarray:
    """A picture with the statistics of a radiograph: smooth anatomy, and noise that grows with the signal."""
    rng = np.random.default_rng((seed, number))
    coarse = rng.normal(0, 1, (64, 64)).astype(np.float32)
    anatomy = cv2.resize(cv2.GaussianBlur(coarse, (0, 0), 2.5), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    smooth = 1900 + 700 * anatomy / anatomy.std()
    noisy = smooth + rng.normal(0, 1, smooth.shape) * np.sqrt(np.clip(smooth, 0, None)) * 0.25
    return np.clip(noisy, 0, 4095).astype(np.uint16)


def write_dicom(path: Path, pixels: np.ndarray, encoding: str, number: int) -> None:
    """Write a chest radiograph in one of :data:`ENCODINGS`."""
    syntax, encoder, _ = ENCODINGS[encoding]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.826.0.1.3680043.10.{number + 1}")
    dataset.PatientID, dataset.Modality, dataset.BodyPartExamined = f"P{number}", "CR", "CHEST"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth, dataset.PixelSpacing = "2000", "3600", ["0.17", "0.17"]
    dataset.PixelData = pixels.tobytes() if encoder is None else encapsulate([encoder(pixels)])
    dataset["PixelData"].VR = "OW" if encoder is None else "OB"
    dataset.save_as(path, enforce_file_format=True)


def naive(path: Path, size: int) -> np.ndarray:
    """What one writes first: everything in float64, at full size, resized by scikit-image."""
    from skimage.transform import resize

    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array.astype(np.float64)
    center, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    shown = np.clip((pixels - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    return (resize(shown, (size, size), anti_aliasing=True) * 255).astype(np.uint8)


def seconds_each(functions: list[Callable[[list[Path]], Any]], files: list[Path], rounds: int) -> list[float]:
    """Median over rounds of the mean time a file, for each function, in turn so that all meet the same machine."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds + 1):
        for function, spent in zip(functions, times, strict=True):
            start = time.perf_counter()
            function(files)
            spent.append((time.perf_counter() - start) / len(files))
    return [statistics.median(spent[1:]) for spent in times]  # the first round warms up


def single(encoding: str, files: list[Path], size: int, rounds: int, scratch: Path) -> list[dict[str, Any]]:
    """One process: our whole reading of a file beside its baseline."""
    initialise()

    def ours(paths: list[Path]) -> None:
        records = read_batch(Batch("dicom", size, tuple(SourceFile(p.name, p) for p in paths), scratch / "chunk.npy"))
        if any(record.outcome != "ok" for record in records):
            raise SystemExit(f"{encoding}: {records[0].outcome} {records[0].detail}")

    decoder = ENCODINGS[encoding][2]
    if decoder is None:
        baseline, target = "pydicom + float64 + skimage resize", 1 / 8

        def other(paths: list[Path]) -> None:
            for path in paths:
                naive(path, size)
    else:
        baseline, target = "decoding alone, same decoder", 1.25
        frames = {f: next(generate_frames(pydicom.dcmread(f).PixelData, number_of_frames=1)) for f in files}

        def other(paths: list[Path]) -> None:
            for path in paths:
                decoder(frames[path])

    own, cost = seconds_each([ours, other], files, rounds)
    settings = {"side": SIDE, "size": size, "processes": 1, "images": len(files), "target": round(target, 3)}
    return [row(f"prepare_{encoding}", own * 1e3, "ms/image", baseline, own / cost, settings)]


def row(name: str, value: float, unit: str, baseline: str, ratio: float, settings: dict[str, Any]) -> dict[str, Any]:
    """One result, rounded to what such a measurement is worth."""
    shown = {"value": float(f"{value:.4g}"), "ratio": float(f"{ratio:.4g}")}
    return {"name": name, **shown, "unit": unit, "baseline": baseline, "settings": settings}


#: A preparation in a process of its own, by the settings on its standard input; time and memory on its output.
PREPARE = """
import json, resource, sys, time
from pathlib import Path
from nc_medfl.data.outputs import Outputs, write_outputs
from nc_medfl.data.prepare import prepare
from nc_medfl.data.settings import PrepareSettings

def megabytes(who):
    return resource.getrusage(who).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

if __name__ == "__main__":
    given = json.load(sys.stdin)
    pages = given.pop("pages")
    paths = {name: Path(given.pop(name)) for name in ("images", "labels", "out")}
    start = time.perf_counter()
    prepare(PrepareSettings("dicom", **paths, **given))
    seconds = time.perf_counter() - start
    if pages:
        write_outputs(paths["out"], Outputs())
    try:
        # Not what the system adds up for a process, which counts in the one that started it.
        own = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10
    except OSError:
        own = megabytes(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": seconds, "own": own, "readers": megabytes(resource.RUSAGE_CHILDREN)}))
"""


def prepared(images: Path, labels: Path, out: Path, *, pages: bool = False, **settings: int) -> dict[str, float]:
    """Prepare a folder in a process of its own: seconds, and the largest memory of it and of its readers in MB.

    Args:
        images, labels, out: as ``nc-medfl prepare`` takes them.
        pages: whether to make the pages of the store too, as the command does.
        settings: the others.
    """
    given = {"images": str(images), "labels": str(labels), "out": str(out), "pages": pages, **settings}
    script = out.parent / "prepare_alone.py"
    script.write_text(PREPARE)
    done = subprocess.run(
        [sys.executable, str(script)], input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True
    )
    told: dict[str, float] = json.loads(done.stdout)
    return told


def pool(
    encoding: str, pictures: list[np.ndarray], count: int, size: int, scratch: Path, rounds: int
) -> list[dict[str, Any]]:
    """A whole preparation with one and with two processes, and the largest of their memories."""
    images, labels = scratch / "images", scratch / "labels.csv"
    images.mkdir(parents=True)
    for number in range(count):
        pixels = np.roll(pictures[number % len(pictures)], number, axis=0)
        write_dicom(images / f"{number:04d}.dcm", pixels, encoding, number)
    labels.write_text(
        "Image Index,Finding Labels\n" + "".join(f"{p.name},No Finding\n" for p in sorted(images.iterdir()))
    )
    runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for number in range(rounds):
        for workers in (1, 2):
            store = scratch / f"store-{workers}-{number}"
            runs[workers].append(prepared(images, labels, store, size=size, workers=workers))
    one, two = (statistics.median(run["seconds"] for run in runs[workers]) for workers in (1, 2))
    memory = max(run["readers"] for of_workers in runs.values() for run in of_workers)
    about = {"side": SIDE, "size": size, "images": count}
    of_limit = f"{MEMORY_LIMIT} MB", memory / MEMORY_LIMIT
    return [
        row(f"two_processes_{encoding}", count / two, "images/s", "one process", two / one, {**about, "target": 0.588}),
        row(f"memory_{encoding}", memory, "MB/process", *of_limit, {**about, "target": 1}),
    ]


def write_folder(folder: Path, count: int, seed: int) -> tuple[Path, Path]:
    """A folder of small uncompressed radiographs, three a patient, and its label table; no two alike.

    Each is the bytes of the first with its identifiers and first pixels changed, so that they are there in seconds.

    Returns:
        The folder of images, and the table.
    """
    images, labels = folder / "images", folder / "labels.csv"
    images.mkdir(parents=True)
    pixels = radiograph(0, seed)[:64, :64]
    write_dicom(images / "first", pixels, "uncompressed", 10**9 - 1)
    first = (images / "first").read_bytes()
    (images / "first").unlink()
    head, uid, patient = first[: -pixels.nbytes], b"10.1000000000", b"P999999999"
    if head.count(uid) != 2 or head.count(patient) != 1:
        raise SystemExit("the first file doesn't hold its identifiers as expected")
    with labels.open("w") as table:
        table.write("Image Index,Patient ID,Finding Labels\n")
        for number in range(count):
            if number % 1000 == 0:
                (images / f"{number // 1000:04d}").mkdir()
            own = head.replace(uid, b"10.2%09d" % number).replace(patient, b"P%09d" % (number // 3))
            changed = number.to_bytes(4, "little") + first[len(head) + 4 :]
            (images / f"{number // 1000:04d}" / f"image{number:08d}.dcm").write_bytes(own + changed)
            found = [name for k, name in enumerate(("Mass", "Edema", "Effusion", "Nodule")) if number % (k + 7) == 0]
            table.write(f"image{number:08d}.dcm,P{number // 3:09d},{'|'.join(found) or 'No Finding'}\n")
    return images, labels


def parent_memory(count: int, scratch: Path, seed: int) -> list[dict[str, Any]]:
    """Memory of the command's own process for a folder of many files: first run, and a rerun without changes."""
    images, labels = write_folder(scratch / "folder", count, seed)
    runs = [prepared(images, labels, scratch / "large", pages=True, size=64, workers=2) for _ in range(2)]
    about = {"side": 64, "size": 64, "images": count, "target": 1}
    return [
        row(name, run["own"], "MB", f"{MEMORY_LIMIT} MB", run["own"] / MEMORY_LIMIT, about)
        for name, run in zip(("prepare_parent_memory", "prepare_parent_memory_rerun"), runs, strict=True)
    ]


def main() -> None:
    """Run all, print a table, write JSON and CSV on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results as a JSON list")
    parser.add_argument("--csv", type=Path, help="write the results as CSV")
    parser.add_argument("--images", type=int, default=8, help="images an encoding")
    parser.add_argument(
        "--pool-images", type=int, default=400, help="images for one and two processes; of JPEG 2000 a fifth"
    )
    parser.add_argument("--folder-files", type=int, default=100_000, help="files of the large folder; 0: no such row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, help="side of the stored square")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pictures = [radiograph(number, arguments.seed) for number in range(arguments.images)]
        for encoding in ENCODINGS:
            files = [scratch / f"{encoding}-{number}.dcm" for number in range(len(pictures))]
            for number, (file, pixels) in enumerate(zip(files, pictures, strict=True)):
                write_dicom(file, pixels, encoding, number)
            # Each in a process of its own, as a preparation reads.
            with multiprocessing.get_context("spawn").Pool(1) as child:
                results += child.apply(single, (encoding, files, arguments.size, arguments.rounds, scratch))
        for encoding in ENCODINGS:
            # Of JPEG 2000 a few take as long as many of the others.
            count = max(2, arguments.pool_images // (5 if encoding == "jpeg2000" else 1))
            with tempfile.TemporaryDirectory(dir=scratch) as place:
                results += pool(encoding, pictures, count, arguments.size, Path(place), arguments.rounds)
        if arguments.folder_files:
            results += parent_memory(arguments.folder_files, scratch, arguments.seed)
    for entry in results:
        target = entry["settings"]["target"]
        verdict = "reached" if entry["ratio"] <= target else "NOT reached"
        print(
            f"{entry['name']:28} {entry['value']:8.4g} {entry['unit']:10} {entry['ratio']:6.3f} of "
            f"{entry['baseline']} (target {target:g}: {verdict})"
        )
    save(results, arguments.json, arguments.csv)


if __name__ == "__main__":
    main()
