"""Which row of a label table is about which image."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import PurePosixPath

from nc_medfl.data.sources.base import SourceData

_NONE: list[str] = []
_SUFFIXES = frozenset({".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii"})


class Closeness(IntEnum):
    """How well a key fits an image; a closer key takes the image from the others.

    One is a tail of the other where it leaves out leading folders: ``b/x.dcm`` of ``a/b/x.dcm``. Keys and images
    whose folders contradict each other don't fit, whatever their bare names.
    """

    SAME = 0  # the path, with or without its extension, the SOP Instance UID, or the accession number
    SAME_BUT_EXTENSION = 1
    KEY_IS_TAIL = 2
    IMAGE_IS_TAIL = 3


@dataclass(frozen=True)
class Join:
    """Result of :func:`join_labels`.

    Attributes:
        label_of: image name to position in the label table.
        unmatched: positions in the label table without an image.
        rivals: pairs of positions that are about one image and fit it equally well; the first of them has it.
    """

    label_of: dict[str, int]
    unmatched: tuple[int, ...]
    rivals: tuple[tuple[int, int], ...] = ()


def join_labels(
    keys: Sequence[str],
    names: Sequence[str],
    uids: Mapping[str, str],
    *,
    accessions: Mapping[str, str] | None = None,
    match_name: bool = True,
    match_uid: bool = True,
) -> Join:
    """Join label keys to images: by relative path, else by the end of the path, else by an identifier.

    Names are compared with or without extension and in one Unicode form. The closest match of a key is taken, and
    of several keys that match an image the closest one has it.

    Args:
        keys: image keys of the label table.
        names: relative paths of the images, with ``/``.
        uids: image name to SOP Instance UID, where known.
        accessions: image name to accession number, where keys are such; all images of one get its row.
        match_name: whether keys may be file names.
        match_uid: whether keys may be SOP Instance UIDs.
    """
    index = _Index(names if match_name else ())
    by_uid: dict[str, list[str]] = defaultdict(list)
    for identifiers, wanted in ((uids, match_uid), (accessions or {}, True)):
        for name, identifier in identifiers.items():
            if identifier and wanted:
                by_uid[identifier].append(name)
    claims: dict[str, tuple[Closeness, int]] = {}
    rivals: list[tuple[int, int]] = []
    served: set[int] = set()
    found = [index.look_up(_plain(key)) or (Closeness.SAME, by_uid.get(key, _NONE)) for key in keys]
    del index, by_uid
    # Closest first, in the table's order among equals.
    for position in sorted(range(len(keys)), key=lambda p: found[p][0]):
        closeness, images = found[position]
        for name in images:
            rank, holder = claims.setdefault(name, (closeness, position))
            if holder == position:
                served.add(position)
            elif rank == closeness:
                served.add(position)
                rivals.append((holder, position))
    unmatched = tuple(position for position in range(len(keys)) if position not in served)
    return Join({name: position for name, (_, position) in claims.items()}, unmatched, tuple(rivals))


def joined_source(source: SourceData, join: Join) -> SourceData:
    """A source once rows that name one image in several ways have been merged, by the rule for repeated rows."""
    if not join.rivals:
        return source
    labels = source.labels.merged_with(join.rivals)
    told = replace(
        source.preview,
        repeated_rows=labels.merged,
        disagreeing=labels.disagreeing,
        contradictory=labels.contradictory,
        patient_conflicts=labels.patient_conflicts,
    )
    return replace(source, labels=labels, preview=told)


class _Forms:
    """Images by a form of their name. Most forms are of one image, which then stands without a list around it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._at: dict[str, int | list[int]] = {}

    def add(self, form: str, position: int) -> None:
        before = self._at.setdefault(form, position)
        if isinstance(before, list):
            before.append(position)
        elif before != position:
            self._at[form] = [before, position]

    def __contains__(self, form: str) -> bool:
        return form in self._at

    def __getitem__(self, form: str) -> list[str]:
        at = self._at[form]
        return [self._names[position] for position in (at if isinstance(at, list) else (at,))]


class _Index:
    """Images by their path and by every end of it, each with and without extension."""

    def __init__(self, names: Sequence[str]) -> None:
        self._paths, self._stems, self._tails, self._tail_stems = (_Forms(names) for _ in range(4))
        for position, name in enumerate(names):
            plain = _plain(name)
            self._paths.add(plain, position)
            self._stems.add(_stem(plain), position)
            for tail in _tails(plain):
                self._tails.add(tail, position)
                self._tail_stems.add(_stem(tail), position)

    def look_up(self, key: str) -> tuple[Closeness, list[str]] | None:
        """The images that fit a key best, and how well."""
        whole = self._same(key)
        if whole is not None:
            return whole
        stem = _stem(key)
        for table, form in ((self._tails, key), (self._tail_stems, key), (self._tails, stem), (self._tail_stems, stem)):
            if form in table:
                return Closeness.KEY_IS_TAIL, table[form]
        ends = (self._same(tail) for tail in _tails(key))
        return next(((Closeness.IMAGE_IS_TAIL, end[1]) for end in ends if end is not None), None)

    def _same(self, key: str) -> tuple[Closeness, list[str]] | None:
        stem = _stem(key)
        attempts = (
            (self._paths, key, Closeness.SAME),
            (self._stems, key, Closeness.SAME),
            (self._paths, stem, Closeness.SAME),
            (self._stems, stem, Closeness.SAME_BUT_EXTENSION),
        )
        return next(((closeness, table[form]) for table, form, closeness in attempts if form in table), None)


def _plain(path: str) -> str:
    """One spelling of a path: macOS takes names apart into letters and accents, tables rarely do."""
    return unicodedata.normalize("NFC", path.replace("\\", "/")).removeprefix("./")


def _stem(path: str) -> str:
    if path.lower().endswith(".nii.gz"):
        return path[: -len(".nii.gz")]
    suffix = PurePosixPath(path).suffix
    return path[: -len(suffix)] if suffix.lower() in _SUFFIXES else path


def _tails(path: str) -> list[str]:
    """The path without its first folder, without its first two, and so on, down to the bare name."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]
