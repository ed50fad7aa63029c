"""Which row of a label table is about which image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_SUFFIXES = frozenset({".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg", ".tif", ".tiff"})


@dataclass(frozen=True)
class Join:
    """Result of :func:`join_labels`.

    Attributes:
        label_of: image name to position in the label table.
        unmatched: positions in the label table without an image.
        by_bare_name: positions that found their image by its bare name alone, which several folders may hold.
    """

    label_of: dict[str, int]
    unmatched: tuple[int, ...]
    by_bare_name: frozenset[int]


def join_labels(
    keys: Sequence[str],
    names: Sequence[str],
    uids: Mapping[str, str],
    *,
    match_name: bool = True,
    match_uid: bool = True,
) -> Join:
    """Join label keys to images: by relative path, else by bare name, else by SOP Instance UID.

    With or without extension; the most exact match of a key wins.

    Args:
        keys: image keys of the label table.
        names: relative paths of the images, with ``/``.
        uids: image name to SOP Instance UID, where known.
        match_name: whether keys may be file names.
        match_uid: whether keys may be SOP Instance UIDs.
    """
    by_name = _index(names) if match_name else []
    by_uid: dict[str, list[str]] = defaultdict(list)
    for name, uid in uids.items():
        if uid and match_uid:
            by_uid[uid].append(name)
    label_of: dict[str, int] = {}
    unmatched: list[int] = []
    bare: set[int] = set()
    for position, key in enumerate(keys):
        found, is_bare = _look_up(key.replace("\\", "/").removeprefix("./"), by_name)
        if not found:
            found, is_bare = by_uid.get(key, []), False
        if not found:
            unmatched.append(position)
        if is_bare:
            bare.add(position)
        for name in found:
            label_of.setdefault(name, position)
    return Join(label_of, tuple(unmatched), frozenset(bare))


def _stem(path: str) -> str:
    suffix = PurePosixPath(path).suffix
    return path[: -len(suffix)] if suffix.lower() in _SUFFIXES else path


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _index(names: Sequence[str]) -> list[dict[str, list[str]]]:
    """Images by relative path, by bare name, and by both without extension."""
    forms = (str, _base, _stem, lambda path: _stem(_base(path)))
    out: list[dict[str, list[str]]] = []
    for form in forms:
        index: dict[str, list[str]] = defaultdict(list)
        for name in names:
            index[form(name)].append(name)
        out.append(dict(index))
    return out


def _look_up(key: str, by_name: Sequence[dict[str, list[str]]]) -> tuple[list[str], bool]:
    if not by_name:
        return [], False
    path, base, path_stem, base_stem = by_name
    attempts = (
        (path, key, False),
        (path_stem, key, False),
        (path_stem, _stem(key), False),
        (base, _base(key), True),
        (base_stem, _base(key), True),
        (base_stem, _stem(_base(key)), True),
    )
    return next(((index[form], is_bare) for index, form, is_bare in attempts if form in index), ([], False))
