"""What a preparation survives: kill -9, a full disk, a target that can't be written, a share that goes, two at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prepare_support import FILES, WORK, command, contents, kill_group, settings, start

from nc_medfl.data.generation import begin_generation, finish_swap, swap_generation
from nc_medfl.data.lock import store_lock
from nc_medfl.data.prepare import prepare
from nc_medfl.data.store import open_store
from nc_medfl.errors import UserError


def until(condition: Callable[[], bool], process: subprocess.Popen[str], limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while process.poll() is None and not condition():
        assert time.monotonic() < end
        time.sleep(0.0005)


def alive(group: int) -> list[int]:
    """Processes of a group, the dead that nobody has buried left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, owner = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            except OSError:
                continue
            if int(owner) == group and state not in "ZX":
                found.append(int(entry.name))
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_a_rerun_ends_in_the_bytes_of_an_undisturbed_run(archive, undisturbed, tmp_path, seed):
    out, draw = tmp_path / "store", random.Random(seed)
    work = out / WORK
    # Anywhere; while files are read; while the new state is written; while it is put in place.
    moments = [
        lambda: time.monotonic() > begun + draw.uniform(0.2, 1.5),
        lambda: len(list(work.glob("*/*.npy"))) > 4,
        lambda: (work / "next").exists(),
        lambda: (work / "next" / "shards").exists(),
        lambda: (work / "next" / "site_private" / "index.jsonl").exists(),
        lambda: (work / "next.ready").exists(),
    ]
    draw.shuffle(moments)
    for moment in moments:
        begun = time.monotonic()
        with start(archive, out) as process:
            until(moment, process)
            time.sleep(draw.uniform(0, 0.01))
            kill_group(process)
    done = subprocess.run(command(archive, out), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert contents(out) == undisturbed
    assert not work.exists()
    assert not list(out.rglob(".*.tmp"))


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def dies_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End before the given call that changes a folder."""
    calls = iter(range(10_000))

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if next(calls) == step:
                raise Killed
            return function(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "unlink", "touch"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        yield


def test_a_swap_cut_short_at_any_step_leaves_the_old_state_or_goes_on_to_the_new(tmp_path, monkeypatch):
    def made(folder: Path, state: str, shards: int) -> None:
        (folder / "shards").mkdir(parents=True)
        for number in range(shards):
            (folder / "shards" / f"{number}.npy").write_text(f"{state} {number}")
        for name in ("manifest.parquet", "prepare.json", "site_private/index.jsonl"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(state)

    step, ends = 0, set()
    while True:
        store = tmp_path / str(step)
        made(store, "old", 3)
        (store / "site_private" / "salt.bin").write_text("kept")
        old = contents(store)
        made(begin_generation(store), "new", 2)
        new = {**contents(store / WORK / "next"), "site_private/salt.bin": b"kept"}
        try:
            with dies_at(step, monkeypatch):
                swap_generation(store)
        except Killed:
            torn = contents(store)
            assert torn in (old, new) or "manifest.parquet" not in torn
        else:
            break
        finish_swap(store)
        assert contents(store) in (old, new)
        ends.add(contents(store) == new)
        step += 1
    assert ends == {False, True}
    assert step > 5
    assert contents(store) == new


def test_a_complete_store_stands_while_another_run_is_killed(archive, undisturbed, tmp_path):
    """New files are read, and the run dies before the store is put together."""
    out, images = tmp_path / "store", tmp_path / "images"
    shutil.copytree(archive / "images", images)
    added = [images / "5" / f"im{n:03d}.dcm" for n in range(FILES) if n % 7 == 5]
    kept = [path.read_bytes() for path in added]
    for path in added:
        path.unlink()
    prepare(settings(archive, out, images=images))
    before = contents(out)
    for path, content in zip(added, kept, strict=True):
        path.write_bytes(content)
    with start(archive, out, "--images", str(images)) as process:
        until(lambda: any((out / WORK).glob("*/*.npy")), process)
        kill_group(process)
    assert contents(out) == before
    assert len(open_store(out)) == FILES - len(added)
    assert prepare(settings(archive, out, images=images)).resumed >= FILES - len(added)
    public = {name: data for name, data in undisturbed.items() if not name.startswith("site_private")}
    assert {name: data for name, data in contents(out).items() if name in public} == public


@needs_proc
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.0, 0.15])
def test_ctrl_c_ends_in_one_line_and_no_process_is_left(archive, undisturbed, tmp_path, how, delay):
    out = tmp_path / "store"
    with start(archive, out) as process:
        until(lambda: any((out / WORK).glob("*")), process)
        time.sleep(delay)
        kill_group(process, how)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, "")
    lines = [line for line in stderr.splitlines() if not line.startswith("Reading radiographs: ")]
    assert lines == ["nc-medfl: stopped; what is done is kept. Give the same command again to go on."]
    # A process of Python itself, which tidies up after the workers, ends a moment after the last of them.
    end = time.monotonic() + 5
    while alive(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert alive(process.pid) == []
    prepare(settings(archive, out))
    assert contents(out) == undisturbed


def test_the_second_of_two_runs_on_one_store_is_refused(archive, undisturbed, tmp_path):
    out = tmp_path / "store"
    with start(archive, out) as process:
        until(lambda: (out / WORK).exists(), process)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(UserError, match=r"store: another run is at work on this store. Wait for its end"):
                prepare(settings(archive, out))
        finally:
            os.kill(process.pid, signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert contents(out) == undisturbed


def test_a_lock_ends_with_its_block(tmp_path):
    for _ in range(2):
        with store_lock(tmp_path), pytest.raises(UserError, match="another run"), store_lock(tmp_path):
            pass


def said_in_one_line(process: subprocess.Popen[str]) -> str:
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode not in (0, None), stdout
    lines = [line for line in stderr.splitlines() if not line.startswith("Reading radiographs: ")]
    assert len(lines) == 1, stderr
    assert "SECRET" not in lines[0]
    assert ".dcm" not in lines[0]
    return lines[0]


@contextmanager
def small_disk(folder: Path, size: str, *options: str) -> Iterator[Path]:
    """A disk of its own, where the system lets us have one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", str(folder)]
    try:
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no right to mount a small disk here")
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


# 120 images of 64 x 64 are 0.5 MB: the first disk is full while reading, the second when shards are written.
@pytest.mark.parametrize("size", ["200k", "800k"])
def test_a_full_disk_ends_in_one_line_and_with_room_the_run_goes_on(archive, undisturbed, tmp_path, size):
    with small_disk(tmp_path / "disk", size) as disk:
        message = said_in_one_line(start(archive, disk / "store"))
        assert "the preparation could not go on (No space left on device)" in message
        assert not (disk / "store" / "manifest.parquet").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        done = subprocess.run(command(archive, disk / "store"), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert contents(disk / "store") == undisturbed


def test_a_full_disk_leaves_a_store_that_stands(archive, tmp_path):
    with small_disk(tmp_path / "disk", "3m") as disk:
        prepare(settings(archive, disk / "store"))
        before = contents(disk / "store")
        (disk / "filler").write_bytes(bytes(2 * 2**20 + 2**18))
        with pytest.raises(UserError, match=r"could not go on \(No space left on device\)"):
            prepare(settings(archive, disk / "store", seed=3, size=72, replace=True))
        assert contents(disk / "store") == before
        assert len(open_store(disk / "store")) == FILES


def test_a_target_that_cannot_be_written_is_told_in_one_line(archive, tmp_path):
    with small_disk(tmp_path / "disk", "1m", "ro") as disk:
        message = said_in_one_line(start(archive, disk / "store"))
    assert "the preparation could not go on (Read-only file system)" in message


@pytest.mark.parametrize("which", ["images", "out"])
def test_a_share_that_vanishes_is_told_and_once_back_the_run_goes_on(archive, undisturbed, tmp_path, which):
    share = tmp_path / "share"
    share.mkdir()
    shutil.copytree(archive / "images", share / "images", copy_function=shutil.copy2)
    out = tmp_path / "share" / "store" if which == "out" else tmp_path / "store"
    images = archive / "images" if which == "out" else share / "images"
    with start(archive, out, "--images", str(images)) as process:
        until(lambda: any((out / WORK).glob("*/*.npy")), process)
        share.rename(tmp_path / "away")
        message = said_in_one_line(process)
    assert "Mend that" in message
    (tmp_path / "away").rename(share)
    assert prepare(settings(archive, out, images=images)).images == FILES
    names = [name for name in undisturbed if not name.startswith("site_private")]
    assert {name: (out / name).read_bytes() for name in names} == {name: undisturbed[name] for name in names}


def test_private_files_are_the_owners_alone_whatever_the_umask(archive, tmp_path):
    for umask in (0o000, 0o077):
        out = tmp_path / f"{umask:o}"
        before = os.umask(umask)
        try:
            prepare(settings(archive, out, salt_file=None))
        finally:
            os.umask(before)
        private = out / "site_private"
        assert private.stat().st_mode & 0o777 == 0o700
        names = sorted(path.name for path in private.iterdir())
        assert names == ["index.jsonl", "labels_without_image.csv", "lock", "salt.bin", "sources.csv"]
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in private.iterdir())
