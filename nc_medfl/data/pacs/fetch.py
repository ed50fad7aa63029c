"""From a query to a folder of DICOM files, resumable, with a bound on the requests at once.

The folder is ``<store>/site_private/pacs``: ``images/`` with the files, under keyed names, and beside it the plan
and the list of what failed, which hold UIDs and are the site's own.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pydicom

from nc_medfl.data.lock import store_lock
from nc_medfl.data.pacs.address import parse_address, read_credentials
from nc_medfl.data.pacs.client import Archive, Refused, outcomes
from nc_medfl.data.pacs.listing import list_images
from nc_medfl.data.pacs.plan import Instance, Plan
from nc_medfl.data.pacs.query import Filters
from nc_medfl.data.pacs.settings import PacsSettings
from nc_medfl.data.private import FOLDER as PRIVATE
from nc_medfl.data.private import open_private, private_folder, private_subfolder, write_private_table
from nc_medfl.errors import UserError

Progress = Callable[[int, int], None]

#: Below ``site_private``.
FOLDER = "pacs"
IMAGES = "images"
FAILED = "failed.csv"
_UNFINISHED = ".tmp"


@dataclass(frozen=True)
class FetchSummary:
    """What a fetch did, in numbers that identify nobody.

    Attributes:
        folder: where the files lie, one an instance.
        images: files there.
        fetched: of these, fetched by this call.
        resumed: of these, there already.
        unwanted: instances whose own header spoke against them, not kept.
        failed: what the archive did not give: (keyed name, reason); ``failed.csv`` beside lists it with UIDs.
    """

    folder: Path
    images: int
    fetched: int
    resumed: int
    unwanted: int
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Job:
    """A fetch under way: what the steps below share."""

    settings: PacsSettings
    folder: Path
    key: bytes
    archive: Archive
    plan: Plan

    def path(self, sop: str) -> Path:
        return self.folder / IMAGES / f"{keyed_name(self.key, sop)}.dcm"

    @property
    def wanted(self) -> list[Instance]:
        return [i for i in self.plan.instances.values() if i.sop not in self.plan.unwanted]


def fetch(
    settings: PacsSettings,
    store: Path,
    key: bytes,
    *,
    listing: Progress | None = None,
    progress: Progress | None = None,
) -> FetchSummary:
    """Fetch all images that match; an interrupted fetch goes on where it stopped when called again.

    The list of images, once made, stands until :func:`release`, so that a run that goes on works on the same images.
    What failed is asked for again. Files that an earlier query has left and this one doesn't ask for are removed at
    the end.

    Args:
        settings: what, where from, how.
        store: the store that is to be prepared; the files go to ``site_private/pacs/images`` in it.
        key: secret that names the files, the store's salt: the same images get the same names.
        listing: called with (studies listed, studies found).
        progress: called with (images done, images found).

    Raises:
        UserError: if the archive can't be used or is gone, the store can't be written or another run is at work on
            it, or nothing matches.
    """
    settings.check()
    try:
        with store_lock(store):
            folder = _folder(store)
            with closing(Plan.open(folder / settings.plan_name)) as plan:
                job = _Job(settings, folder, key, _connect(settings), plan)
                unlisted = list_images(settings, job.archive, plan, listing or _nothing)
                return _download(job, unlisted, progress or _nothing)
    except OSError as error:
        # Without the error's text and cause, which name the file.
        raise UserError(
            f"{store}: cannot be written ({error.strerror or type(error).__name__}). Mend that and give the same "
            "command again; what has been fetched is kept."
        ) from None


def release(store: Path, *, keep: bool) -> None:
    """Forget the list of images, once the store is complete, so that the next fetch asks afresh.

    Args:
        store: as given to :func:`fetch`.
        keep: leave the files, so that a next fetch needs only what is new; else they are removed.
    """
    folder = store / PRIVATE / FOLDER
    for plan in folder.glob("plan-*.jsonl"):
        plan.unlink(missing_ok=True)
    if not keep:
        shutil.rmtree(folder / IMAGES, ignore_errors=True)


def keyed_name(key: bytes, uid: str) -> str:
    """Name of an object that doesn't tell its UID: HMAC-SHA256 under the site's secret, 32 hex digits."""
    return hmac.new(key, b"pacs\0" + uid.encode(), hashlib.sha256).hexdigest()[:32]


def _nothing(_done: int, _total: int) -> None: ...


def _connect(settings: PacsSettings) -> Archive:
    return Archive(
        parse_address(settings.address),
        read_credentials(os.environ),
        patience=settings.patience,
        stop=threading.Event(),
    )


def _folder(store: Path) -> Path:
    folder = private_folder(store) / FOLDER
    for path in (folder, folder / IMAGES):
        private_subfolder(path)
    return folder


def _download(job: _Job, unlisted: Sequence[tuple[str, str]], progress: Progress) -> FetchSummary:
    total = len(job.wanted)
    _sweep(job, {f"{keyed_name(job.key, sop)}.dcm" for sop in job.plan.instances}, unfinished_only=True)
    waiting = [instance for instance in job.wanted if not job.path(instance.sop).exists()]
    resumed, fetched, done = total - len(waiting), 0, total - len(waiting)
    failed: list[tuple[Instance, str]] = []
    progress(done, total)
    for instance, outcome in outcomes(job.archive, lambda i: _fetch_one(job, i), waiting, job.settings.requests):
        if isinstance(outcome, Refused):
            failed.append((instance, str(outcome)))
        elif outcome:
            fetched += 1
        else:
            job.plan.reject(instance.sop)
        done += 1
        progress(done, total)
    job.plan.sync()
    _write_failed(job, unlisted, failed)
    _sweep(job, {job.path(instance.sop).name for instance in job.wanted}, unfinished_only=False)
    summary = FetchSummary(
        folder=job.folder / IMAGES,
        images=resumed + fetched,
        fetched=fetched,
        resumed=resumed,
        unwanted=len(job.plan.unwanted),
        failed=(
            *((keyed_name(job.key, uid), why) for uid, why in unlisted),
            *((keyed_name(job.key, instance.sop), why) for instance, why in failed),
        ),
    )
    if not summary.images:
        raise _no_image(job, summary)
    return summary


def _fetch_one(job: _Job, instance: Instance) -> bool:
    """Fetch an instance, whole or not at all; False if its header says that it wasn't asked for.

    Raises:
        Refused: if the archive doesn't give it.
    """
    path = job.path(instance.sop)
    temporary = path.with_name(f".{path.stem}{_UNFINISHED}")
    try:
        with open_private(temporary) as stream:
            job.archive.download(instance.study, instance.series, instance.sop, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if not _is_wanted(temporary, instance, job.settings.filters):
            return False
        temporary.replace(path)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _is_wanted(path: Path, instance: Instance, filters: Filters) -> bool:
    """Whether a file is the instance and matches the filters that the archive's answers left open.

    A file that can't be read as DICOM is: that it is broken is for the preparation to find and to count.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID", *instance.unknown])
        said = {keyword: str(header.get(keyword) or "").strip() for keyword in ("SOPInstanceUID", *instance.unknown)}
    except Exception:  # A hostile header can make the parser raise nearly anything.
        return True
    if said["SOPInstanceUID"] not in ("", instance.sop):
        raise Refused("another image came")
    return all(filters.judge(keyword, said[keyword]) for keyword in instance.unknown)


def _sweep(job: _Job, kept: Collection[str], *, unfinished_only: bool) -> None:
    """Remove what killed runs have left unfinished, and else every file of another query."""
    for path in (job.folder / IMAGES).iterdir():
        unfinished = path.name.startswith(".") and path.name.endswith(_UNFINISHED)
        if unfinished or (not unfinished_only and path.name not in kept):
            path.unlink(missing_ok=True)


def _write_failed(job: _Job, unlisted: Sequence[tuple[str, str]], failed: Sequence[tuple[Instance, str]]) -> None:
    """List what the archive did not give, with UIDs, for the site's own eyes."""
    path = job.folder / FAILED
    if not unlisted and not failed:
        with suppress(FileNotFoundError):
            path.unlink()
        return
    studies = ((keyed_name(job.key, uid), why, uid, "", "") for uid, why in unlisted)
    instances = ((keyed_name(job.key, i.sop), why, i.study, i.series, i.sop) for i, why in failed)
    write_private_table(path, ("name", "reason", "study_uid", "series_uid", "sop_uid"), (*studies, *instances))


def _no_image(job: _Job, summary: FetchSummary) -> UserError:
    if summary.failed:
        return UserError(
            f"{job.archive.shown}: gave none of its {len(summary.failed)} objects that match "
            f"({summary.failed[0][1]}). {job.folder / FAILED} lists them."
        )
    return UserError(
        f"{job.archive.shown}: holds no image that matches. Widen --modality, --body-part, --from-date, --to-date or "
        "--accessions."
    )
