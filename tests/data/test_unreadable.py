"""Files that the disk doesn't give: one costs itself, is told, and is tried again; a share that went ends the run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess

import numpy as np
import pandas as pd
import pytest
from prepare_support import FILES, WORK, command, contents, kill_group, settings

from nc_medfl.data.inputs.listing import list_files
from nc_medfl.data.prepare import prepare
from nc_medfl.errors import UserError

#: Root reads everything, unless it gives up the right to.
BOUND = ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
needs_bound = pytest.mark.skipif(bool(BOUND) and not shutil.which("setpriv"), reason="root, and no setpriv")


@pytest.fixture
def images(archive, tmp_path):
    """The archive's images, of which one is forbidden."""
    folder = tmp_path / "images"
    shutil.copytree(archive / "images", folder, copy_function=shutil.copy2)
    (folder / "0" / "im000.dcm").chmod(0)
    return folder


def run(archive, out, images):
    given = [*BOUND, *command(archive, out, "--images", str(images), "--json")]
    return subprocess.run(given, capture_output=True, text=True, check=False, timeout=120)


@needs_bound
def test_a_forbidden_file_costs_itself_is_told_and_comes_in_once_it_may_be_read(archive, undisturbed, images, tmp_path):
    out = tmp_path / "store"
    done = run(archive, out, images)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["images"], told["counts"]["unreadable"]) == (FILES - 1, 1)
    assert any("1 files can't be read and are left out" in text for text in told["warnings"])
    assert "im000" not in done.stdout + done.stderr
    sources = pd.read_csv(out / "site_private" / "sources.csv").set_index("outcome").loc["unreadable"]
    assert (sources["detail"], sources["path"]) == (
        "cannot be read (Permission denied)",
        str(images / "0" / "im000.dcm"),
    )
    # Again, in vain: the same store, and it is tried.
    before = contents(out)
    again = json.loads(run(archive, out, images).stdout)
    assert (again["images"], contents(out)) == (FILES - 1, before)
    (images / "0" / "im000.dcm").chmod(0o600)
    summary = prepare(settings(archive, out, images=images))
    assert (summary.images, summary.resumed) == (FILES, FILES + 1)
    assert public(contents(out)) == public(undisturbed)
    assert prepare(settings(archive, out, images=images)).unchanged


@needs_bound
def test_killed_beside_a_forbidden_file_a_rerun_ends_in_the_bytes_of_an_undisturbed_run(archive, images, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "store"
    assert run(archive, whole, images).returncode == 0
    given = [*BOUND, *command(archive, out, "--images", str(images))]
    with subprocess.Popen(
        given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        while process.poll() is None and not any((out / WORK).glob("*/journal*")):
            os.sched_yield()
        kill_group(process)
    assert run(archive, out, images).returncode == 0
    assert contents(out) == contents(whole)


@needs_bound
def test_an_image_of_the_store_is_not_dropped_because_its_changed_file_is_forbidden(
    archive, images, tmp_path, make_dicom, picture
):
    out, file = tmp_path / "store", images / "0" / "im000.dcm"
    file.chmod(0o600)
    prepare(settings(archive, out, images=images))
    before = contents(out)
    make_dicom(file, np.ascontiguousarray(picture[::-1]), PatientID="0")
    file.chmod(0)
    done = run(archive, out, images)
    assert done.returncode == 2
    assert "1 of the 120 images in the store come from files that are gone or can't be read" in done.stderr.replace(
        "\n", " "
    )
    assert contents(out) == before


@needs_bound
def test_a_forbidden_archive_costs_itself_and_a_forbidden_folder_is_told_at_once(archive, images, tmp_path):
    shutil.make_archive(str(tmp_path / "images" / "more"), "zip", archive / "images" / "1")
    (images / "more.zip").chmod(0)
    done = run(archive, tmp_path / "store", images)
    assert json.loads(done.stdout)["counts"]["unreadable"] == 2
    (images / "1").chmod(0)
    done = run(archive, tmp_path / "other", images)
    (images / "1").chmod(0o700)
    assert done.returncode == 2
    assert "a folder below it, cannot be read (Permission denied)" in done.stderr.replace("\n", " ")


def test_a_damaged_file_costs_itself_and_many_in_a_row_end_the_run(archive, tmp_path):
    # Linux opens this for reading and then gives an input/output error.
    images, out = tmp_path / "images", tmp_path / "store"
    shutil.copytree(archive / "images", images)
    (images / "DOE^JANE.dcm").symlink_to("/proc/self/mem")
    assert prepare(settings(archive, out, images=images)).counts["unreadable"] == 1
    rejected = pd.read_csv(out / "quarantine.csv").set_index("outcome")
    assert "tried anew" in rejected.loc["unreadable", "remedy"]
    for number in range(8):
        (images / f"DOE^JOHN{number}.dcm").symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=r"unreadable\.txt under --out says which") as caught:
        prepare(settings(archive, tmp_path / "other", images=images))
    assert "DOE" not in str(caught.value)
    note = tmp_path / "other" / WORK / "unreadable.txt"
    assert note.read_text() == f"{images / 'DOE^JOHN6.dcm'}\n"
    assert note.stat().st_mode & 0o777 == 0o600


def test_pipes_sockets_and_links_to_nowhere_are_told_and_nothing_waits_for_them(tmp_path):
    (tmp_path / "real.dcm").write_bytes(b"x")
    (tmp_path / "folder.dcm").mkdir()
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "gone.dcm").symlink_to("nowhere")
    (tmp_path / "one.dcm").symlink_to("two.dcm")
    (tmp_path / "two.dcm").symlink_to("one.dcm")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.dcm"))
        found = list_files(tmp_path)
    assert [file.name for file in found] == ["real.dcm"]
    assert found.remarks == ("5 entries of the folder are no files (links that lead nowhere, pipes) and are left out.",)


def public(files):
    return {name: data for name, data in files.items() if not name.startswith("site_private")}
