"""Preparation on a Dask cluster: a scheduler and workers as processes of their own, on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from prepare_support import command, contents, settings

from nc_medfl.data import dask_engine
from nc_medfl.data.prepare import prepare
from nc_medfl.errors import UserError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]
pytest.importorskip("distributed")

FILES = 60


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """PNG-free: sixty radiographs of twenty patients as uncompressed DICOM."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, generate_uid

    folder = tmp_path_factory.mktemp("site")
    (folder / "images").mkdir()
    rows, rng = ["file,Effusion"], np.random.default_rng(3)
    for number in range(FILES):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.PatientID = generate_uid(), f"SECRET-{number // 3}"
        data.Modality, data.BodyPartExamined = "DX", "CHEST"
        data.PhotometricInterpretation, data.SamplesPerPixel, data.PixelRepresentation = "MONOCHROME2", 1, 0
        data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 96, 80, 16, 16, 15
        data.PixelData = rng.integers(0, 4096, (96, 80)).astype("<u2").tobytes()
        data["PixelData"].VR = "OW"
        data.save_as(folder / "images" / f"{number:02d}.dcm", enforce_file_format=True)
        rows.append(f"{number:02d}.dcm,{number % 2}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "salt").write_bytes(b"0123456789abcdef")
    return folder


@pytest.fixture(scope="module")
def expected(site, tmp_path_factory) -> dict[str, bytes]:
    """The store that the process pool makes."""
    out = tmp_path_factory.mktemp("pool") / "store"
    prepare(settings(site, out, workers=1))
    return contents(out)


@dataclass
class Cluster:
    """A scheduler, and as many workers as were started."""

    address: str
    folder: Path
    processes: list[subprocess.Popen[bytes]]

    @property
    def engine(self) -> str:
        """As the command line takes it."""
        return self.address.replace("tcp://", "dask://")

    def start(self, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a part of the cluster, in a session of its own, its log in a file."""
        log = (self.folder / f"{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def add_worker(self, **variables: str) -> subprocess.Popen[bytes]:
        """A worker process with one thread, that a nanny starts again when it dies."""
        return self.start(
            *("dask_worker", self.address, "--nthreads", "1", "--nworkers", "1", "--no-dashboard"),
            *("--local-directory", str(self.folder)),
            **variables,
        )

    def logs(self) -> str:
        """What all of them said."""
        return "\n".join(path.read_text() for path in self.folder.glob("*.log"))

    def stop(self) -> None:
        """End all of it."""
        for process in reversed(self.processes):
            for how in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, how)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
            process.wait(timeout=10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_cluster(folder: Path, workers: int, **variables: str) -> Iterator[Cluster]:
    folder.mkdir(exist_ok=True)
    port = free_port()
    cluster = Cluster(f"tcp://127.0.0.1:{port}", folder, [])
    try:
        cluster.start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", **variables)
        wait_for(lambda: answers(port))
        for _ in range(workers):
            cluster.add_worker(**variables)
        yield cluster
    finally:
        cluster.stop()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_for(condition: Callable[[], bool], limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), 2) as made:
        yield made


def test_a_cluster_makes_the_same_bytes_as_the_pool_and_names_nobody_in_its_logs(cluster, site, expected, tmp_path):
    out = tmp_path / "store"
    done = subprocess.run(
        command(site, out, "--engine", cluster.engine), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected
    for secret in ("SECRET", ".dcm", str(site)):
        assert secret not in cluster.logs()
        assert secret not in done.stderr


def test_a_worker_that_is_killed_costs_nothing(site, expected, tmp_path):
    with running_cluster(tmp_path / "cluster", 2) as cluster:
        out = tmp_path / "store"
        words = command(site, out, "--engine", cluster.engine)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda: any((out / "site_private" / "work").glob("*/*.npy")) or process.poll() is not None)
            os.killpg(cluster.processes[1].pid, signal.SIGKILL)
            _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        assert contents(out) == expected


CRASHING = """
import os
from pathlib import Path
from nc_medfl.data import worker

# Dask loads this file twice.
read = getattr(worker._read_file, "inner", worker._read_file)

def crash(file, *more):
    if file.name == "07.dcm":
        os._exit(11)
    return read(file, *more)

crash.inner = read
worker._read_file = crash
"""


def test_a_file_that_kills_its_worker_is_found_and_costs_one_file(site, tmp_path):
    """The workers' start-up file makes one file deadly, as a broken codec would."""
    (tmp_path / "deadly.py").write_text(CRASHING)
    with running_cluster(tmp_path / "cluster", 0, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as cluster:
        cluster.start(
            *("dask_worker", cluster.address, "--nthreads", "1", "--nworkers", "2", "--no-dashboard"),
            *("--local-directory", str(tmp_path / "cluster"), "--preload", str(tmp_path / "deadly.py")),
        )
        wait_for(lambda: cluster.logs().count("Registered to") == 2)
        # A nanny hears of its worker's start a moment after the scheduler does, and must before the worker dies.
        time.sleep(1)
        try:
            summary = prepare(settings(site, tmp_path / "store", engine=cluster.engine))
        except UserError as error:
            pytest.fail(f"{error}\n{cluster.logs()}")
    assert summary.counts == {"ok": FILES - 1, "undecodable": 1}


def test_what_is_wrong_with_a_cluster_is_said_in_one_line(site, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_engine, "_ANSWER", 2.0)
    nobody = f"dask://127.0.0.1:{free_port()}"
    begun = time.monotonic()
    with pytest.raises(UserError, match="no Dask scheduler answers there"):
        prepare(settings(site, tmp_path / "store", engine=nobody))
    assert time.monotonic() - begun < 20
    with running_cluster(tmp_path / "cluster", 0) as cluster, pytest.raises(UserError, match="has no workers"):
        prepare(settings(site, tmp_path / "store", engine=cluster.engine))
    with pytest.raises(UserError, match="there are 'processes' and dask://HOST:PORT"):
        prepare(settings(site, tmp_path / "store", engine="spark://x"))


def test_a_scheduler_that_dies_is_said_and_the_run_goes_on_without_it(site, expected, tmp_path):
    out = tmp_path / "store"
    with running_cluster(tmp_path / "cluster", 1) as cluster:
        words = command(site, out, "--engine", cluster.engine)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda: any((out / "site_private" / "work").glob("*/*.npy")) or process.poll() is not None)
            for part in reversed(cluster.processes):
                os.killpg(part.pid, signal.SIGKILL)
            _, stderr = process.communicate(timeout=120)
    lines = [line for line in stderr.splitlines() if not line.startswith("Reading radiographs: ")]
    assert process.returncode == 2, stderr
    assert len(lines) == 1, stderr
    assert "the scheduler is gone. Start it and run again" in lines[0]
    prepare(settings(site, out))
    assert contents(out) == expected


def test_ctrl_c_stops_cleanly(cluster, site, expected, tmp_path):
    out = tmp_path / "store"
    words = command(site, out, "--engine", cluster.engine)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for(lambda: any((out / "site_private" / "work").glob("*/*.npy")) or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    lines = [line for line in stderr.splitlines() if not line.startswith("Reading radiographs: ")]
    assert process.returncode == 130, stderr
    assert lines == ["nc-medfl: stopped; what is done is kept. Give the same command again to go on."]
    prepare(settings(site, out))
    assert contents(out) == expected


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs a worker that sees other folders")
def test_a_worker_that_does_not_see_the_store_is_told_before_anything_is_read(site, tmp_path):
    """The worker has an empty folder mounted over the store's."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount")
    with running_cluster(tmp_path / "cluster", 0) as cluster:
        log = (tmp_path / "worker.log").open("wb")
        mount = (
            f"mount -t tmpfs tmpfs {hidden} && exec {sys.executable} -m distributed.cli.dask_worker {cluster.address}"
        )
        cluster.processes.append(
            subprocess.Popen(
                ["unshare", "-m", "sh", "-c", f"{mount} --nthreads 1 --no-dashboard --local-directory {tmp_path}"],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        with pytest.raises(UserError, match="a worker doesn't see --out"):
            prepare(settings(site, hidden / "store", engine=cluster.engine))
