"""``nc-medfl prepare --from``: the images come from an archive instead of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from nc_medfl.cli.console import console, progress_bar
from nc_medfl.data import store as stores
from nc_medfl.data.private import FOLDER, load_salt
from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.sources import get_source, read_labels
from nc_medfl.errors import UserError
from nc_medfl.labels import load_vocabulary

if TYPE_CHECKING:  # the HTTP libraries are slow to import, and most preparations don't need them
    from nc_medfl.data.pacs import FetchSummary, PacsSettings

#: Where the images of an archive lie in a store while it is prepared.
IMAGES = Path(FOLDER) / "pacs" / "images"


@dataclass(frozen=True)
class ArchiveOptions:
    """What the command line says about an archive, as typed.

    Attributes:
        address: ``--from``; None if the images are in a folder.
        modality: ``--modality``; CR, DX and RG where empty.
        body_part: ``--body-part``.
        from_date: ``--from-date``.
        to_date: ``--to-date``.
        accessions: ``--accessions``.
        requests: ``--requests``; 4 where None.
        insecure_http: ``--insecure-http``.
        keep_downloads: ``--keep-downloads``.
    """

    address: str | None = None
    modality: Sequence[str] = ()
    body_part: Sequence[str] = ()
    from_date: str | None = None
    to_date: str | None = None
    accessions: Path | None = None
    requests: int | None = None
    insecure_http: bool = False
    keep_downloads: bool = False

    def images(self, images: Path | None, out: Path | None) -> Path | None:
        """The folder to be prepared: the one given, or where the archive's images will lie.

        Raises:
            UserError: if both a folder and an archive are given, or filters without an archive.
        """
        if self.address is None:
            given = [f"--{name.replace('_', '-')}" for name, said in vars(self).items() if said]
            if given:
                raise UserError(f"{given[0]}: goes with --from dicomweb://HOST:PORT/PATH. Give that, or leave it out.")
            return images
        if images is not None:
            raise UserError("--images: the images come --from an archive. Leave one of the two out.")
        return out / IMAGES if out else None


@contextmanager
def archive_images(options: ArchiveOptions, settings: PrepareSettings) -> Iterator[list[str]]:
    """Fetch the images of an archive, and forget them when the block has made the store of them.

    Without ``--from`` this does nothing. If the block fails, everything fetched stays for the next attempt.

    Args:
        options: which images, from where.
        settings: of the preparation; its images folder is the one of :meth:`ArchiveOptions.images`.

    Yields:
        Remarks for the person who runs it.
    """
    if options.address is None:
        yield []
        return
    from nc_medfl.data.pacs import fetch, release

    pacs = _pacs_settings(options, options.address)
    _check_first(settings, pacs)
    salt = load_salt(settings.out, settings.salt_file, public=False, anew=settings.replace)
    with ExitStack() as bars:
        asking = bars.enter_context(progress_bar("Asking the archive"))
        fetching: list[Callable[[int, int], None]] = []

        def show(done: int, total: int) -> None:
            if not fetching:
                # One bar after the other.
                bars.close()
                fetching.append(bars.enter_context(progress_bar("Fetching images")))
            fetching[0](done, total)

        fetched = fetch(pacs, settings.out, salt, listing=asking, progress=show)
    console.print(
        f"{fetched.images} images from the archive ({fetched.fetched} fetched now, {fetched.resumed} before).",
        markup=False,
    )
    yield _remarks(fetched)
    release(settings.out, keep=options.keep_downloads)


def _pacs_settings(options: ArchiveOptions, address: str) -> PacsSettings:
    from nc_medfl.data.pacs import DEFAULT_MODALITIES, Filters, PacsSettings, read_accessions

    filters = Filters(
        modalities=tuple(dict.fromkeys(m.strip().upper() for m in options.modality)) or DEFAULT_MODALITIES,
        body_parts=tuple(dict.fromkeys(b.strip().upper() for b in options.body_part)),
        first=_date("--from-date", options.from_date),
        last=_date("--to-date", options.to_date),
        accessions=read_accessions(options.accessions) if options.accessions else (),
    )
    return PacsSettings(
        address,
        filters,
        requests=4 if options.requests is None else options.requests,
        insecure_http=options.insecure_http,
    )


def _date(option: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option} {text}: is no date. Give it as 2020-12-31.") from None


def _check_first(settings: PrepareSettings, pacs: PacsSettings) -> None:
    """What would else be found wrong after an hour of fetching."""
    settings.check()
    pacs.check()
    if get_source(settings.source).kind == "picture":
        raise UserError(
            f"--source {settings.source}: its images are pictures, which no archive gives. Use --source dicom."
        )
    read_labels(settings.label_choices(), load_vocabulary(settings.vocabulary))
    out = settings.out
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file. Give a folder as --out.")
    ours = (out / stores.INFO).is_file() or (out / FOLDER).is_dir()
    if out.exists() and not ours and any(out.iterdir()):
        raise UserError(f"{out}: holds other files and is no store. Give a new or empty folder as --out.")


def _remarks(fetched: FetchSummary) -> list[str]:
    remarks = []
    if fetched.failed:
        remarks.append(
            f"The archive did not give {len(fetched.failed)} images or studies that match; the store is without them. "
            f"{fetched.folder.parent / 'failed.csv'} lists them with the reasons; give the same command again to ask "
            "for them again."
        )
    if fetched.unwanted:
        remarks.append(f"{fetched.unwanted} images were fetched that don't match by their own headers; left out.")
    return remarks
