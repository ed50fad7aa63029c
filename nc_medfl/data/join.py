"""Which row of a label table is about which image."""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from nc_medfl.data.sources.base import SourceData

_NONE: list[int] = []
_UID = re.compile(r"[0-9]+(\.[0-9]+){3,}")
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
    OTHER_CAPITALS = 4  # any of these, but for capitals


Positions = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Join:
    """Result of :func:`join_labels`.

    Attributes:
        names: of the images.
        label_at: position in the label table of each image's row, -1 where it has none, ``[N]``.
        unmatched: positions in the label table without an image.
        rivals: pairs of positions that are about one image and fit it equally well; the first of them has it.
    """

    names: Sequence[str]
    label_at: Positions
    unmatched: tuple[int, ...]
    rivals: tuple[tuple[int, int], ...] = ()

    @property
    def label_of(self) -> dict[str, int]:
        """Image name to position in the label table."""
        return {self.names[image]: int(self.label_at[image]) for image in np.flatnonzero(self.label_at >= 0).tolist()}

    @property
    def found_any(self) -> bool:
        """Whether any label is about any image."""
        return bool((self.label_at >= 0).any())


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

    Names are compared with or without extension and in one Unicode form, and without regard to capitals where nothing
    else fits. The closest match of a key is taken, and of several keys that match an image the closest one has it.

    Args:
        keys: image keys of the label table.
        names: relative paths of the images, with ``/``.
        uids: image name to SOP Instance UID, where known; those that are no key may be left out.
        accessions: image name to accession number, where keys are such; all images of one get its row.
        match_name: whether keys may be file names.
        match_uid: whether keys may be SOP Instance UIDs.
    """
    index = _Index(names if match_name else ())
    folded: _Index | None = None
    by_identifier = _by_identifier(names, uids if match_uid else {}, accessions or {})
    closeness = np.zeros(len(keys), dtype=np.int8)
    found = array("i")
    where = array("q", [0])
    for position, key in enumerate(keys):
        close, images = index.look_up(_plain(key)) or (Closeness.SAME, by_identifier.get(identifier_in(key), _NONE))
        if not images and match_name:
            folded = folded or _Index(names, fold=True)
            _, images = folded.look_up(_plain(key).casefold()) or (close, images)
            close = Closeness.OTHER_CAPITALS
        closeness[position] = close
        found.extend(images)
        where.append(len(found))
    del index, folded, by_identifier
    holder: Positions = np.full(len(names), -1, dtype=np.int32)
    rank = np.zeros(len(names), dtype=np.int8)
    rivals: list[tuple[int, int]] = []
    served = np.zeros(len(keys), dtype=bool)
    # Closest first, in the table's order among equals.
    for position in np.argsort(closeness, kind="stable").tolist():
        for image in found[where[position] : where[position + 1]]:
            if holder[image] < 0:
                holder[image], rank[image] = position, closeness[position]
            if holder[image] == position:
                served[position] = True
            elif rank[image] == closeness[position]:
                served[position] = True
                rivals.append((int(holder[image]), position))
    return Join(names, holder, tuple(np.flatnonzero(~served).tolist()), tuple(rivals))


def identifier_in(key: str) -> str:
    """The UID after which a key's file is named, where it looks like that (``a/1.2.840.5.dcm``); else the key."""
    last = _plain(key).rpartition("/")[2]
    named = _stem(last) if last.lower().endswith((".dcm", ".dicom")) else last
    return named if is_uid(named) else key


def lost_zeros(keys: Iterable[str], names: Iterable[str]) -> bool:
    """Whether a key that is a number would be an image's name with zeros before it, which spreadsheets take away."""
    numbers = {key for key in keys if key.isdecimal()}
    stems = (_stem(name.rpartition("/")[2]) for name in names) if numbers else ()
    return any(stem[:1] == "0" and stem.isdecimal() and stem.lstrip("0") in numbers for stem in stems)


def is_uid(text: str) -> bool:
    """Whether a text looks like a UID (PS3.5, section 9)."""
    return _UID.fullmatch(text) is not None


def _by_identifier(names: Sequence[str], *identifiers: Mapping[str, str]) -> dict[str, list[int]]:
    """Positions of images by what their headers call them."""
    at = {name: position for position, name in enumerate(names)} if any(identifiers) else {}
    found: dict[str, list[int]] = defaultdict(list)
    for identifier_of in identifiers:
        for name, identifier in identifier_of.items():
            if identifier:
                found[identifier].append(at[name])
    return found


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
    """Images by a form of their name: a hash of each in order, since the forms themselves would fill the memory.

    Args:
        names: of the images.
        forms: the forms of a name.
    """

    def __init__(self, names: Sequence[str], forms: Callable[[str], Iterable[str]]) -> None:
        self._names, self._forms = names, forms
        hashes, images = array("q"), array("i")
        for image, name in enumerate(names):
            for form in forms(_plain(name)):
                hashes.append(hash(form))
                images.append(image)
        values = np.array(hashes, dtype=np.int64)
        order = np.argsort(values, kind="stable")
        self._hashes = array("q", values[order].tobytes())
        self._images = array("i", np.array(images, dtype=np.int32)[order].tobytes())

    def get(self, form: str) -> list[int]:
        """Images of that form, in their order."""
        wanted = hash(form)
        at = bisect_left(self._hashes, wanted)
        found: list[int] = []
        while at < len(self._hashes) and self._hashes[at] == wanted:
            image = self._images[at]
            if image not in found[-1:] and form in self._forms(_plain(self._names[image])):
                found.append(image)
            at += 1
        return found


class _Index:
    """Images by their path and by every end of it, each with and without extension."""

    def __init__(self, names: Sequence[str], *, fold: bool = False) -> None:
        def forms(made: Callable[[str], Iterable[str]]) -> _Forms:
            return _Forms(names, (lambda path: made(path.casefold())) if fold else made)

        self._paths = forms(lambda path: (path,))
        self._stems = forms(lambda path: (_stem(path),))
        self._tails = forms(_tails)
        self._tail_stems = forms(lambda path: [_stem(tail) for tail in _tails(path)])

    def look_up(self, key: str) -> tuple[Closeness, list[int]] | None:
        """The images that fit a key best, and how well."""
        whole = self._same(key)
        if whole is not None:
            return whole
        stem = _stem(key)
        for table, form in ((self._tails, key), (self._tail_stems, key), (self._tails, stem), (self._tail_stems, stem)):
            if images := table.get(form):
                return Closeness.KEY_IS_TAIL, images
        ends = (self._same(tail) for tail in _tails(key))
        return next(((Closeness.IMAGE_IS_TAIL, end[1]) for end in ends if end is not None), None)

    def _same(self, key: str) -> tuple[Closeness, list[int]] | None:
        stem = _stem(key)
        attempts = (
            (self._paths, key, Closeness.SAME),
            (self._stems, key, Closeness.SAME),
            (self._paths, stem, Closeness.SAME),
            (self._stems, stem, Closeness.SAME_BUT_EXTENSION),
        )
        found = ((closeness, table.get(form)) for table, form, closeness in attempts)
        return next(((closeness, images) for closeness, images in found if images), None)


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
