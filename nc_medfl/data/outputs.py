"""What is made of a finished store: the quality page, and on request a page for review and copies in other formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nc_medfl.data.export import export_nifti, export_png
from nc_medfl.data.lock import store_lock
from nc_medfl.data.private import load_salt
from nc_medfl.data.quality import quality_needs, write_quality
from nc_medfl.data.review import write_review
from nc_medfl.data.sources import get_source, has_source
from nc_medfl.data.store import Store, open_store
from nc_medfl.errors import UserError

Progress = Callable[[int, int], None]

KINDS = ("png", "nifti", "dicom")


@dataclass(frozen=True)
class Outputs:
    """What to make of a store.

    Attributes:
        write: copies, of :data:`KINDS`.
        review: images on the page for review; 0: no page.
        thumbnails: whether the quality page shows images.
        shift_dates: whether DICOM copies keep study dates, moved.
        seed: of the sample for review.
        salt_file: the secret that keys identifiers, if it isn't the store's own.
    """

    write: tuple[str, ...] = ()
    review: int = 0
    thumbnails: bool = False
    shift_dates: bool = False
    seed: int = 0
    salt_file: Path | None = None

    def check(self, source: str) -> None:
        """Raise a UserError for what can't be meant, before an hour of reading.

        Args:
            source: name of the source, as in the preparation's settings.
        """
        unknown = next((kind for kind in self.write if kind not in KINDS), None)
        if unknown is not None:
            raise UserError(f"--write {unknown}: there are {', '.join(KINDS)}.")
        if self.review < 0:
            raise UserError(f"--review {self.review}: give the number of images to look at, 1 or more.")
        if "dicom" in self.write and has_source(source) and get_source(source).kind != "dicom":
            raise UserError(f"--write dicom: the images of --source {source} are no DICOM files. Use png or nifti.")


def write_outputs(folder: Path, wanted: Outputs, progress: Progress | None = None) -> list[Path]:
    """Make the pages and copies of a store; each step can be repeated, and goes on where it was stopped.

    Args:
        folder: of the store, finished; not held by its lock.
        wanted: what to make.
        progress: called with (images done, images in all) of each step in turn.

    Returns:
        What was made: pages and folders.

    Raises:
        UserError: if something can't be written, or doesn't read back.
    """
    with store_lock(folder):
        # The pages need half of the manifest.
        store = open_store(folder, quality_needs)
        made = [write_quality(store, thumbnails=wanted.thumbnails, progress=progress)[0]]
        if wanted.review:
            made.append(write_review(store, wanted.review, wanted.seed, progress))
        if wanted.write:
            made += _copies(open_store(folder), wanted, progress)
    return made


def _copies(store: Store, wanted: Outputs, progress: Progress | None) -> Sequence[Path]:
    made = []
    for kind in dict.fromkeys(wanted.write):
        if kind == "dicom":
            # Its library is loaded only where it is wanted.
            from nc_medfl.data.export.dicom import export_dicom

            salt = load_salt(store.folder, wanted.salt_file, public=False)
            summary = export_dicom(store, salt, shift_dates=wanted.shift_dates, progress=progress)
        else:
            summary = (export_png if kind == "png" else export_nifti)(store, progress=progress)
        made.append(summary.folder)
    return made
