"""Fetching from a real archive: Orthanc from Debian's packages, on loopback, with a proxy before it that counts."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import logging
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from orthanc_support import Orthanc, Proxy
from typer.testing import CliRunner

from nc_medfl.cli.main import app
from nc_medfl.data.pacs import Filters, PacsSettings, fetch, release
from nc_medfl.data.pacs.fetch import keyed_name
from nc_medfl.data.store import open_store
from nc_medfl.errors import UserError

pytestmark = pytest.mark.integration

#: Patients and accession numbers, dates and UIDs of the films.
IDENTIFYING = re.compile(r"MARKER|2020\d\d15|1\.2\.826\.0\.1\.3680043")
KEY = b"a secret of 16 bytes"
ANY = Filters(modalities=("CR", "DX", "RG", "CT"))
SYNTAXES = [
    "1.2.840.10008.1.2.1",  # explicit, little endian
    "1.2.840.10008.1.2.2",  # explicit, big endian
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first order
    "1.2.840.10008.1.2.4.80",  # JPEG-LS
    "1.2.840.10008.1.2.4.90",  # JPEG 2000
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1",
]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, Path]:
    """Ten images, one a study, by SOP Instance UID: DX of chests, but 7 a CR, 8 a hand and 9 a CT."""
    # The recipe of the DICOM tests, which lies beside them.
    place = Path(__file__).resolve().parents[1] / "data" / "conftest.py"
    spec = importlib.util.spec_from_file_location("dicom_recipe", place)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    rows, cols = np.mgrid[0:96, 0:80]
    picture = (2000 + 1200 * np.sin(rows / 15) + 600 * np.cos(cols / 9)).astype(np.uint16)
    folder = tmp_path_factory.mktemp("films")
    made = {}
    for number, syntax in enumerate(SYNTAXES):
        dataset = recipe.dicom_dataset(
            np.roll(picture, number, axis=0) + np.uint16(number),
            syntax,
            PatientID=f"MARKER-{number // 2}",
            PatientName="MARKER^NAME",
            SeriesInstanceUID=pydicom.uid.generate_uid(),
            StudyDate=f"2020{number + 1:02d}15",
            AccessionNumber=f"MARKER{number}",
            Modality="CR" if number == 7 else "CT" if number == 9 else "DX",
            BodyPartExamined="HAND" if number == 8 else "CHEST",
        )
        path = folder / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        made[str(dataset.SOPInstanceUID)] = path
    return made


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, films) -> Iterator[Orthanc]:
    archive = Orthanc(tmp_path_factory.mktemp("orthanc"))
    try:
        for path in films.values():
            archive.store(path)
        yield archive
    finally:
        archive.stop()


@pytest.fixture
def proxy(orthanc) -> Iterator[Proxy]:
    made = Proxy(orthanc)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def credentials(orthanc, monkeypatch) -> None:
    for name in ("TOKEN", "CA"):
        monkeypatch.delenv(f"NC_MEDFL_DICOMWEB_{name}", raising=False)
    monkeypatch.setenv("NC_MEDFL_DICOMWEB_USER", orthanc.user)
    monkeypatch.setenv("NC_MEDFL_DICOMWEB_PASSWORD", orthanc.password)


def hashes(folder: Path) -> list[str]:
    return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir())


def numbers(films: dict[str, Path], folder: Path) -> list[int]:
    """Which of the films lie in a folder, found by their bytes."""
    known = {hashlib.sha256(path.read_bytes()).hexdigest(): int(path.stem) for path in films.values()}
    return sorted(known[found] for found in hashes(folder))


def test_every_byte_is_as_it_was_stored(orthanc, films, tmp_path):
    summary = fetch(PacsSettings(orthanc.address, ANY), tmp_path / "store", KEY)
    assert (summary.images, summary.fetched, summary.resumed, summary.failed) == (10, 10, 0, ())
    assert numbers(films, summary.folder) == list(range(10))
    for path in (summary.folder, *summary.folder.iterdir()):
        assert path.stat().st_mode & 0o077 == 0
    assert not any(uid in str(path) for path in summary.folder.iterdir() for uid in films)


def test_real_radiographs_come_unchanged(shared_data, tmp_path, monkeypatch):
    archive = Orthanc(tmp_path / "orthanc")
    try:
        monkeypatch.setenv("NC_MEDFL_DICOMWEB_PASSWORD", archive.password)
        for path in (shared_data / "dicom").glob("*.dcm"):
            archive.store(path)
        everything = fetch(PacsSettings(archive.address), tmp_path / "all", KEY)
        chests = fetch(PacsSettings(archive.address, Filters(body_parts=("CHEST",))), tmp_path / "chest", KEY)
    finally:
        archive.stop()
    assert hashes(everything.folder) == hashes(shared_data / "dicom")
    stated = [p for p in (shared_data / "dicom").iterdir() if pydicom.dcmread(p).get("BodyPartExamined") == "CHEST"]
    assert hashes(chests.folder) == sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in stated)


CASES = [
    (Filters(), list(range(9))),
    (Filters(modalities=("CR",)), [7]),
    (Filters(modalities=("CT", "CR")), [7, 9]),
    (Filters(body_parts=("HAND",)), [8]),
    (Filters(first=date(2020, 3, 15), last=date(2020, 5, 15)), [2, 3, 4]),
    (Filters(first=date(2020, 8, 16)), [8]),
    (Filters(accessions=("MARKER1", "nobody's", "MARKER4", "MARKER9")), [1, 4]),
    (Filters(accessions=("MARKER*",), modalities=("DX", "CT")), []),
    (Filters(accessions=("MARKER1", "MARKER4"), last=date(2020, 2, 15)), [1]),
]


@pytest.mark.parametrize(("filters", "expected"), CASES)
@pytest.mark.parametrize("obedient", [True, False], ids=["filtering", "ignoring filters"])
def test_filters_hold_even_where_the_archive_ignores_them(proxy, films, tmp_path, filters, expected, obedient):
    proxy.ignored = () if obedient else ("StudyDate", "AccessionNumber", "ModalitiesInStudy")
    settings = PacsSettings(proxy.address, filters)
    if not expected:
        with pytest.raises(UserError, match="holds no image that matches"):
            fetch(settings, tmp_path, KEY)
        return
    summary = fetch(settings, tmp_path, KEY)
    assert numbers(films, summary.folder) == expected
    # Answers told enough: nothing was fetched in vain.
    assert len(proxy.objects) == len(expected)
    assert summary.unwanted == 0


@pytest.mark.parametrize(("filters", "expected"), [case for case in CASES if case[1]])
def test_filters_hold_where_the_answers_do_not_tell(proxy, films, tmp_path, filters, expected):
    proxy.hidden = ("00080020", "00080050", "00180015")
    proxy.ignored = ("StudyDate", "AccessionNumber")
    summary = fetch(PacsSettings(proxy.address, filters), tmp_path, KEY)
    assert numbers(films, summary.folder) == expected
    # What was fetched in vain is remembered, and not fetched again.
    asked = len(proxy.objects)
    again = fetch(PacsSettings(proxy.address, filters), tmp_path, KEY)
    assert (again.images, again.fetched, len(proxy.objects)) == (len(expected), 0, asked)


@pytest.mark.parametrize("page", [1, 3])
def test_pages_are_followed_to_the_end(orthanc, films, tmp_path, page):
    summary = fetch(PacsSettings(orthanc.address, ANY, page=page), tmp_path, KEY)
    assert numbers(films, summary.folder) == list(range(10))


@pytest.mark.parametrize("bound", [1, 3])
def test_never_more_requests_at_once_than_set(proxy, tmp_path, bound):
    proxy.delay = 0.03
    accessions = Filters(accessions=tuple(f"MARKER{number}" for number in range(9)))
    fetch(PacsSettings(proxy.address, accessions, requests=bound), tmp_path, KEY)
    assert proxy.most == bound
    assert len(proxy.paths) > 30


def test_retries_stay_within_the_bound(proxy, films, tmp_path):
    proxy.delay = 0.01
    proxy.trouble = lambda path, times: {1: 503, 2: "cut"}.get(times) if "/instances/" in path else None
    filters = Filters(accessions=tuple(f"MARKER{number}" for number in range(4)))
    summary = fetch(PacsSettings(proxy.address, filters, requests=4), tmp_path, KEY)
    assert numbers(films, summary.folder) == list(range(4))
    assert len(proxy.objects) == 12
    assert proxy.most <= 4


def test_a_wrong_password_is_told_and_tried_once(proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("NC_MEDFL_DICOMWEB_PASSWORD", "guess")
    with pytest.raises(UserError, match="does not accept the credentials") as caught:
        fetch(PacsSettings(proxy.address), tmp_path, KEY)
    assert "guess" not in str(caught.value)
    assert len(proxy.paths) == 1


def test_a_token_opens_the_archive(proxy, films, tmp_path, monkeypatch):
    for name in ("USER", "PASSWORD"):
        monkeypatch.delenv(f"NC_MEDFL_DICOMWEB_{name}")
    proxy.token = "abc.def-123"
    with pytest.raises(UserError, match="does not accept the credentials"):
        fetch(PacsSettings(proxy.address), tmp_path, KEY)
    monkeypatch.setenv("NC_MEDFL_DICOMWEB_TOKEN", "abc.def-123")
    assert numbers(films, fetch(PacsSettings(proxy.address), tmp_path, KEY).folder) == list(range(9))


def test_nothing_identifying_is_logged_or_warned_of(proxy, tmp_path, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    proxy.trouble = lambda path, times: {1: 503, 2: 500}.get(times) if path.endswith("/series") else None
    filters = Filters(accessions=("MARKER1", "MARKER2"), first=date(2020, 1, 15), last=date(2020, 12, 15))
    fetch(PacsSettings(proxy.address, filters), tmp_path, KEY)
    said = [*(record.getMessage() for record in caplog.records), *(str(warning.message) for warning in recwarn)]
    assert not [text for text in said if IDENTIFYING.search(text)]


def test_the_host_is_named_with_its_port(proxy, tmp_path):
    fetch(PacsSettings(proxy.address), tmp_path, KEY)
    assert proxy.hosts == {f"127.0.0.1:{proxy.port}"}


def test_tls_needs_an_authority_that_is_trusted(orthanc, films, tmp_path, monkeypatch):
    (tmp_path / "both.pem").write_bytes(self_signed(tmp_path / "ca.pem"))
    proxy = Proxy(orthanc, tmp_path / "both.pem")
    try:
        assert proxy.address.startswith("dicomwebs://")
        with pytest.raises(UserError, match=r"certificate or TLS is not accepted\. Set NC_MEDFL_DICOMWEB_CA"):
            fetch(PacsSettings(proxy.address), tmp_path / "store", KEY)
        assert proxy.paths == []
        monkeypatch.setenv("NC_MEDFL_DICOMWEB_CA", str(tmp_path / "ca.pem"))
        assert numbers(films, fetch(PacsSettings(proxy.address), tmp_path / "store", KEY).folder) == list(range(9))
    finally:
        proxy.stop()


def self_signed(certificate: Path) -> bytes:
    """Write a certificate for 127.0.0.1; returns it with its key."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    extension = ["-addext", "subjectAltName=IP:127.0.0.1"]
    key = certificate.with_name("key.pem")
    subprocess.run([*command, *extension, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate.read_bytes() + key.read_bytes()


def test_an_archive_that_restarts_meanwhile_is_waited_for(proxy, orthanc, films, tmp_path):
    starting: list[threading.Thread] = []
    proxy.delay = 0.1

    def progress(done: int, total: int) -> None:
        if done == 3 and not starting:
            orthanc.stop()
            starting.append(threading.Timer(1.0, orthanc.start))
            starting[0].start()

    try:
        summary = fetch(PacsSettings(proxy.address, requests=2), tmp_path, KEY, progress=progress)
    finally:
        starting[0].join()
    assert numbers(films, summary.folder) == list(range(9))
    assert len(proxy.objects) > 9


def test_an_archive_that_is_gone_ends_in_one_line_and_the_next_run_goes_on(proxy, orthanc, films, tmp_path):
    proxy.delay = 0.1

    def progress(done: int, total: int) -> None:
        if done == 4:
            orthanc.stop()

    shown = rf"^dicomweb://127.0.0.1:{proxy.port}/dicom-web: "
    try:
        with pytest.raises(UserError, match=shown + r"can't be reached, for \d+ seconds\..*is kept\.$") as caught:
            fetch(PacsSettings(proxy.address, requests=2, patience=0.6), tmp_path, KEY, progress=progress)
    finally:
        orthanc.start()
    assert not any(uid in str(caught.value) for uid in films)
    there = len(list((tmp_path / "site_private" / "pacs" / "images").iterdir()))
    assert 4 <= there < 9
    summary = fetch(PacsSettings(proxy.address), tmp_path, KEY)
    assert (summary.resumed, summary.images) == (there, 9)
    assert numbers(films, summary.folder) == list(range(9))


def test_what_is_gone_from_the_archive_is_counted_listed_and_asked_for_again(orthanc, films, tmp_path):
    uid = next(uid for uid, path in films.items() if path.stem == "5")

    def listing(done: int, total: int) -> None:
        if done == total == 9:
            orthanc.delete(uid)

    try:
        summary = fetch(PacsSettings(orthanc.address), tmp_path, KEY, listing=listing)
    finally:
        orthanc.store(films[uid])
    assert numbers(films, summary.folder) == [0, 1, 2, 3, 4, 6, 7, 8]
    ((name, reason),) = summary.failed
    assert reason == "HTTP 404"
    assert uid not in name
    listed = summary.folder.parent / "failed.csv"
    assert listed.stat().st_mode & 0o077 == 0
    (row,) = csv.DictReader(listed.open())
    assert (row["name"], row["reason"], row["sop_uid"]) == (name, reason, uid)
    # The archive has it again.
    summary = fetch(PacsSettings(orthanc.address), tmp_path, KEY)
    assert (summary.resumed, summary.fetched, summary.failed) == (8, 1, ())
    assert not listed.exists()


def test_a_full_disk_ends_in_one_line_and_the_next_run_goes_on(orthanc, films, tmp_path):
    # A limit on the size of a file stands in for the disk: compressed films fit, the others don't.
    soft, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (13_000, most))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(File too large\).* is kept\.$") as caught:
            fetch(PacsSettings(orthanc.address, requests=1), tmp_path, KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, most))
    assert not IDENTIFYING.search(str(caught.value))
    assert numbers(films, fetch(PacsSettings(orthanc.address), tmp_path, KEY).folder) == list(range(9))


def test_a_list_stands_until_it_is_released(proxy, films, tmp_path):
    fetch(PacsSettings(proxy.address), tmp_path, KEY)
    asked = len(proxy.paths)
    assert fetch(PacsSettings(proxy.address), tmp_path, KEY).resumed == 9
    assert len(proxy.paths) == asked
    release(tmp_path, keep=True)
    assert fetch(PacsSettings(proxy.address), tmp_path, KEY).fetched == 0
    assert len(proxy.paths) > asked
    assert len(proxy.objects) == 9
    release(tmp_path, keep=False)
    assert not (tmp_path / "site_private" / "pacs" / "images").exists()


def test_another_query_never_mixes_with_the_files_of_one_before(orthanc, films, tmp_path):
    fetch(PacsSettings(orthanc.address, ANY), tmp_path, KEY)
    summary = fetch(PacsSettings(orthanc.address, Filters(("CT", "CR"))), tmp_path, KEY)
    assert (summary.fetched, summary.resumed) == (0, 2)
    assert numbers(films, summary.folder) == [7, 9]


# The whole way, by the command line.


@pytest.fixture
def hospital(films, tmp_path) -> Path:
    return write_tables(films, tmp_path)


def write_tables(films: dict[str, Path], folder: Path) -> Path:
    """Labels by SOP Instance UID in NIH's columns, and a salt."""
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["Image Index", "Patient ID", "Finding Labels"])
        for uid, path in films.items():
            number = int(path.stem)
            writer.writerow([uid, f"MARKER-{number // 2}", "Effusion|Mass" if number % 2 else "No Finding"])
    (folder / "salt").write_bytes(KEY)
    return folder


@pytest.fixture(scope="module")
def from_a_folder(films, tmp_path_factory) -> Path:
    """The store of the same images without an archive."""
    folder = write_tables(films, tmp_path_factory.mktemp("without"))
    (folder / "images").mkdir()
    for uid, path in films.items():
        if path.stem != "9":
            # Named as in the other stores, since names decide the order of the images.
            (folder / "images" / f"{keyed_name(KEY, uid)}.dcm").write_bytes(path.read_bytes())
    run(folder, "store", "--images", str(folder / "images"))
    return folder / "store"


def command(hospital: Path, out: str, *arguments: str) -> list[str]:
    base = [sys.executable, "-m", "nc_medfl.cli.main", "prepare", "--source", "dicom", "--size", "32"]
    files = [
        "--labels",
        str(hospital / "labels.csv"),
        "--out",
        str(hospital / out),
        "--salt-file",
        str(hospital / "salt"),
    ]
    return [*base, *files, "--workers", "1", "--json", *arguments]


def public(store: Path) -> dict[str, bytes]:
    """Every byte of a store that others may see."""
    files = (p for p in sorted(store.rglob("*")) if p.is_file() and "site_private" not in p.parts)
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def run(hospital: Path, out: str, *arguments: str) -> dict:
    done = subprocess.run(command(hospital, out, *arguments), capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert not IDENTIFYING.search(done.stdout + done.stderr)
    return json.loads(done.stdout)


def test_a_store_from_the_archive_is_the_one_from_a_folder_and_tells_nothing(proxy, films, hospital, from_a_folder):
    said = run(hospital, "store", "--from", proxy.address)
    assert said["counts"] == {"ok": 8, "body_part": 1}
    assert public(hospital / "store") == public(from_a_folder)
    frame = open_store(hospital / "store").manifest
    assert frame["label:Effusion"].sum() == 4
    told = {**public(hospital / "store"), "decoded": frame.to_csv().encode()}
    for name, content in told.items():
        for secret in ("MARKER", *films):
            assert secret.encode() not in content, f"{secret} in {name}"
    # The images were wanted for the store alone.
    assert [p.name for p in (hospital / "store" / "site_private" / "pacs").iterdir()] == []
    # What stands is left as it is by another run, which fetches again.
    before = public(hospital / "store")
    run(hospital, "store", "--from", proxy.address, "--keep-downloads")
    assert public(hospital / "store") == before
    assert len(list((hospital / "store" / "site_private" / "pacs" / "images").iterdir())) == 9


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_run_that_was_ended_midway_goes_on_and_ends_in_the_same_bytes(
    proxy, films, hospital, from_a_folder, how, code
):
    arguments = ("--from", proxy.address, "--requests", "2")
    images = hospital / "store" / "site_private" / "pacs" / "images"
    # Too slow to be done before it is ended.
    proxy.delay = 0.25
    process = subprocess.Popen(command(hospital, "store", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while len(list(images.glob("[!.]*"))) < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert b"Traceback" not in err
    assert not IDENTIFYING.search((out + err).decode())
    there = {path.name for path in images.glob("[!.]*")}
    assert 3 <= len(there) < 9
    assert not (hospital / "store" / "manifest.parquet").exists()
    proxy.delay, proxy.paths = 0.0, []
    run(hospital, "store", *arguments)
    wanted = {uid for uid, path in films.items() if path.stem != "9"}
    assert set(proxy.objects) == {uid for uid in wanted if f"{keyed_name(KEY, uid)}.dcm" not in there}
    assert len(proxy.objects) == 9 - len(there)
    assert public(hospital / "store") == public(from_a_folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "dicomweb://anna:hush@127.0.0.1/x"), "leave user and password out"),
        (("--from", "dicomweb://pacs.example/x"), "would cross the network in clear text"),
        (("--from", "LIVE", "--requests", "0"), "--requests 0: give 1 to 64"),
        (("--from", "LIVE", "--from-date", "31.1.2020"), "--from-date 31.1.2020: is no date"),
        (("--from", "LIVE", "--modality", "C?"), "is no DICOM code"),
        (("--from", "LIVE", "--accessions", "nowhere"), "nowhere: cannot be read as text"),
        (("--from", "LIVE", "--images", "folder"), "Leave one of the two out"),
        (("--from", "LIVE", "--source", "nih"), "Use --source dicom"),
        (("--from", "LIVE", "--out", "full"), "holds other files and is no store"),
        (("--from", "LIVE", "--labels", "nowhere.csv"), "no such file"),
        (("--from", "LIVE", "--modality", "MG"), "holds no image that matches"),
        (("--images", "folder", "--accessions", "list"), "--accessions: goes with --from"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_is_fetched(proxy, hospital, monkeypatch, arguments, message):
    (hospital / "full").mkdir()
    (hospital / "full" / "thesis.txt").write_text("all my work")
    monkeypatch.chdir(hospital)
    typed = ["prepare", "--labels", "labels.csv", "--out", "store", *arguments]
    result = CliRunner().invoke(app, [proxy.address if word == "LIVE" else word for word in typed])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert "hush" not in str(result.exception)
    assert "\n" not in str(result.exception)
    assert proxy.objects == []
    assert list((hospital / "full").iterdir()) == [hospital / "full" / "thesis.txt"]
