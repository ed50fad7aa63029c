"""A folder with what the documentation's commands name: images, a table, stores, sites, a run."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nc_medfl.data.store import open_store
from nc_medfl.data.synthetic import Person, ScannerStyle, radiograph_dataset, write_dicom
from nc_medfl.labels import load_vocabulary
from tests_support import REPOSITORY

PATIENTS = 90
#: What stands in the text for a name of the reader's own, and what it is here.
PLACEHOLDERS = {
    "RUN": "runs/fednca",
    "runs/first": "runs/fednca",
    "A": "runs/fednca",
    "B": "runs/fedavg",
    "STORE": "changing",
    "RUNS": "runs",
    "FILE": "samples.txt",
    "OUT": "exported",
    "DIR": "elsewhere",
    "/archive/chest": "radiographs",
    "model_best.pt": "runs/fednca/model_best.pt",
    "film1.dcm": "film.dcm",
    "film2.dcm": "image.dcm",
    "st_mary": "site-1",
    "sites/st_mary/store": "sites/site-1/store",
}
#: Put at the end of a command, so that it takes seconds.
SHORTER = {
    "run": ["--set", "rounds=1", "--set", "evaluation.resamples=20"],
    "evaluate": ["--resamples", "20"],
}


class World:
    """The folder, and the commands that were run in it; each is run once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: set[tuple[str, ...]] = set()
        for name in ("jobs", "site_configs", "benchmarks"):
            (folder / name).symlink_to(REPOSITORY / name)
        _radiographs(folder)
        _scores(folder)

    def run(self, words: Sequence[str]) -> None:
        """Run a line of ``nc-medfl`` in this process.

        Raises:
            Exception: as the command does.
        """
        from nc_medfl.cli.main import app

        args = self._filled(words)
        if tuple(args) in self._done:
            return
        with _inside(self.folder), contextlib.redirect_stdout(io.StringIO()):
            code = app(args, standalone_mode=False)
        assert not isinstance(code, int) or code == 0, f"{' '.join(args)}: ended with {code}"
        self._done.add(tuple(args))
        if words[0] == "run":
            self._after_a_run()

    def _filled(self, words: Sequence[str]) -> list[str]:
        """The line with placeholders and wildcards filled in, its output in a folder of its own."""
        args = [PLACEHOLDERS.get(word, word) for word in words]
        if args[0] == "prepare" and "--out" in args and (self.folder / "store").exists():
            args[args.index("--out") + 1] += "-" + "-".join(word.strip("-") for word in args if word.startswith("--"))
        with _inside(self.folder):
            args = [name for word in args for name in (sorted(glob.glob(word)) or [word])]  # noqa: PTH207
        return args + SHORTER.get(args[0], [])

    def _after_a_run(self) -> None:
        if not (self.folder / "runs" / "fedavg").exists():
            shutil.copytree(self.folder / "runs" / "fednca", self.folder / "runs" / "fedavg")
            shutil.copytree(self.folder / "runs" / "fednca" / "model", self.folder / "model")
            shutil.copytree(self.folder / "store", self.folder / "changing")
            sample = open_store(self.folder / "store").manifest["sample_id"][0]
            (self.folder / "samples.txt").write_text(f"{sample}\n", encoding="utf-8")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before, terminal = Path.cwd(), sys.stdin
    os.chdir(folder)
    sys.stdin = io.StringIO("P005\n")  # for what asks for a patient
    try:
        yield
    finally:
        sys.stdin = terminal
        os.chdir(before)


def _radiographs(folder: Path) -> None:
    """Noise in which a finding shows as a bright square, written as DICOM; two films a patient."""
    findings = load_vocabulary("nih14").findings
    rng = np.random.default_rng(0)
    (folder / "radiographs").mkdir()
    rows, boxes = [], []
    for number in range(2 * PATIENTS):
        patient = f"P{number // 2:03d}"
        present = [name for name in findings if rng.random() < 0.25]
        picture = rng.random((80, 80)).astype(np.float32) / 2
        for name in present:
            top, left = divmod(findings.index(name), 4)
            picture[20 * top : 20 * top + 20, 20 * left : 20 * left + 20] += 0.5
            boxes.append((f"film{number:03d}.dcm", name, 20 * left, 20 * top, 20, 20))
        person = Person(patient, sex="MF"[number // 2 % 2], entropy=("docs", str(number)), study=number)
        name = f"film{number:03d}.dcm"
        write_dicom(folder / "radiographs" / name, radiograph_dataset(picture, ScannerStyle(), person, rng))
        rows.append({"Image Index": name, "Finding Labels": "|".join(present) or "No Finding", "Patient ID": patient})
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    columns = ["Image Index", "Finding Label", "x", "y", "w", "h"]
    pd.DataFrame(boxes, columns=columns).to_csv(folder / "boxes.csv", index=False)
    shutil.copy(folder / "radiographs" / "film000.dcm", folder / "film.dcm")
    shutil.copy(folder / "radiographs" / "film002.dcm", folder / "image.dcm")
    from PIL import Image

    Image.fromarray(rng.integers(0, 255, (80, 80)).astype(np.uint8)).save(folder / "other.png")
    (folder / "site.salt").write_bytes(b"salt of the documentation's tests")


def _scores(folder: Path) -> None:
    """Predictions of two models for the same images."""
    rng = np.random.default_rng(1)
    n = 240
    table = pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(n)],
            "patient_key": [f"p{i // 2}" for i in range(n)],
            "site": np.where(np.arange(n) % 4 < 2, "north", "south"),
            "split": np.where(np.arange(n) < 80, "val", "test"),
            "sex": np.where(np.arange(n) // 2 % 2, "F", "M"),
            "age": 30 + np.arange(n) // 2 % 50,
        }
    )
    for name in ("Mass", "Effusion"):
        table[f"label:{name}"] = (rng.random(n) < 0.4).astype(int)
        for file in ("scores", "b"):
            score = 1 / (1 + np.exp(-(rng.normal(size=n) + 1.5 * table[f"label:{name}"] - 0.8)))
            table[f"{file}:{name}"] = score
    for file, out in (("scores", "scores.csv"), ("scores", "a.csv"), ("b", "b.parquet")):
        other = "b" if file == "scores" else "scores"
        mine = table.drop(columns=[c for c in table if c.startswith(f"{other}:")])
        mine = mine.rename(columns=lambda c, file=file: c.replace(f"{file}:", "score:"))
        mine.to_parquet(folder / out) if out.endswith("parquet") else mine.to_csv(folder / out, index=False)
