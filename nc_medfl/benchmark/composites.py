"""Single-label pictures turned multi-label: two pictures of different classes on one canvas (METHOD section 5)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from nc_medfl.data.store import hash_of
from nc_medfl.errors import UserError

Pictures = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ClassPictures:
    """Pictures of one class each.

    Attributes:
        pictures: uint8 ``[N, 3, size, size]``.
        classes: number of each one's class, ``[N]``.
        names: of the classes, in order.
        given: the split that the folders name for each, -1 where they name none, ``[N]``.
    """

    pictures: Pictures
    classes: Ints
    names: tuple[str, ...]
    given: Ints


def list_pictures(path: Path) -> list[tuple[str, int]]:
    """Names of all pictures in a folder or zip of class folders, with their sizes in bytes, sorted.

    Raises:
        UserError: if there is no such file or folder, it is no zip, or no picture lies in a folder of its class.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder. Give 'path' a folder or a zip with a folder for each class.")
    try:
        found = sorted(_entries(path))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: neither a folder nor a readable zip. Give a zip with a folder a class.") from error
    if not found:
        raise UserError(
            f"{path}: no picture in a folder of its class. Expected CLASS/NAME.jpg or SPLIT/CLASS/NAME.jpg."
        )
    return found


def class_names(path: Path) -> tuple[str, ...]:
    """Names of the classes of a folder or zip of class folders, sorted."""
    return tuple(sorted({PurePosixPath(name).parts[-2] for name, _ in list_pictures(path)}))


def _entries(path: Path) -> Iterator[tuple[str, int]]:
    if path.is_dir():
        files = ((file.relative_to(path).as_posix(), file.stat().st_size) for file in path.rglob("*") if file.is_file())
        yield from (entry for entry in files if _is_picture(entry[0]))
        return
    with zipfile.ZipFile(path) as archive:
        yield from ((info.filename, info.file_size) for info in archive.infolist() if _is_picture(info.filename))


def _is_picture(name: str) -> bool:
    place = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
    return len(place.parts) > 1 and place.suffix.lower() in _PICTURES and not hidden


def fingerprint(path: Path, size: int) -> str:
    """What decides the pictures that :func:`read_class_pictures` gives: names and sizes, not where they lie."""
    return hash_of({"files": list_pictures(path), "size": size, "version": 1})


def read_class_pictures(path: Path, size: int) -> ClassPictures:
    """Read a folder or zip of class folders: ``CLASS/NAME.jpg``, or with ``train``, ``val``, ``test`` above.

    Args:
        path: of the folder or zip.
        size: side in pixels to which each picture is fitted (resized with its shorter side, then cut to the centre).

    Raises:
        UserError: as :func:`list_pictures`; or if a picture is unreadable, or there is one class alone.
    """
    entries = [name for name, _ in list_pictures(path)]
    names = tuple(sorted({PurePosixPath(name).parts[-2] for name in entries}))
    if len(names) < 2:
        raise UserError(f"{path}: pictures of one class alone ({names[0]}). Composites need two classes or more.")
    pictures = np.empty((len(entries), 3, size, size), dtype=np.uint8)
    for index, content in enumerate(_contents(path, entries)):
        try:
            pictures[index] = _decoded(content, size)
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise UserError(f"{path}: {entries[index]} is no readable picture of 8 or 16 bits. Take it out.") from error
    number = {name: index for index, name in enumerate(names)}
    classes = np.array([number[PurePosixPath(name).parts[-2]] for name in entries], dtype=np.int64)
    given = np.array([_split_of(name) for name in entries], dtype=np.int64)
    return ClassPictures(pictures, classes, names, given)


def _contents(path: Path, entries: list[str]) -> Iterator[bytes]:
    if path.is_dir():
        yield from ((path / name).read_bytes() for name in entries)
        return
    with zipfile.ZipFile(path) as archive:
        yield from (archive.read(name) for name in entries)


def _decoded(content: bytes, size: int) -> Pictures:
    with Image.open(io.BytesIO(content)) as opened:
        picture = _eight_bits(opened).convert("RGB")
    if picture.size != (size, size):
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.resize((width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
        picture = picture.crop((left, top, left + size, top + size))
    planes: Pictures = np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1)
    return planes


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey values of 16 bits by their first 8; Pillow would make all from 255 on white."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("grey values of 32 bits have no white")
    return picture


def _split_of(name: str) -> int:
    aliases = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2}
    return next((aliases[part.lower()] for part in PurePosixPath(name).parts[:-2] if part.lower() in aliases), -1)


def split_pictures(source: ClassPictures, fractions: tuple[float, float, float], seed: int) -> Ints:
    """The split of each picture, ``[N]``: numbers in :data:`SPLITS`, class by class.

    Splits that the folders name stand where all three are named. Else all pictures are dealt out, so that no picture
    stands in two.

    Args:
        source: the pictures.
        fractions: of train, val and test.
        seed: of the deal.
    """
    if {0, 1, 2} <= set(source.given.tolist()) and (source.given >= 0).all():
        return source.given
    split = np.zeros(len(source.classes), dtype=np.int64)
    rng = np.random.default_rng([seed, 7])
    edges = np.cumsum(fractions[:2]) / sum(fractions)
    for number in range(len(source.names)):
        rows = rng.permutation(np.flatnonzero(source.classes == number))
        for index, part in enumerate(np.split(rows, np.round(edges * len(rows)).astype(int))):
            split[part] = index
    return split


def compose(
    source: ClassPictures, rows: Ints, count: int, two: float, rng: np.random.Generator
) -> tuple[Pictures, npt.NDArray[np.float32]]:
    """Canvases of two places side by side, with two pictures of different classes, or one and a black place.

    Pictures are drawn without repeats until all have been used, then afresh.

    Args:
        source: the pictures.
        rows: of those that may be used.
        count: canvases to make.
        two: share of them with two pictures.
        rng: source of every draw.

    Returns:
        Canvases uint8 ``[count, 3, size, 2 * size]`` and labels ``[count, C]``.
    """
    size = source.pictures.shape[-1]
    images = np.zeros((count, 3, size, 2 * size), dtype=np.uint8)
    labels = np.zeros((count, len(source.names)), dtype=np.float32)
    pairs = rng.permutation(count) < round(two * count)
    sides = rng.integers(0, 2, count)
    deck: list[int] = []
    for index in range(count):
        chosen = [_draw(deck, rows, rng)]
        if pairs[index]:
            chosen.append(_draw_other(deck, rows, source.classes, chosen[0], rng))
        for place, row in enumerate(chosen):
            left = (int(sides[index]) + place) % 2 * size
            images[index, :, :, left : left + size] = source.pictures[row]
            labels[index, source.classes[row]] = 1
    return images, labels


def _draw(deck: list[int], rows: Ints, rng: np.random.Generator) -> int:
    if not deck:
        deck.extend(rng.permutation(rows).tolist())
    return deck.pop()


def _draw_other(deck: list[int], rows: Ints, classes: Ints, first: int, rng: np.random.Generator) -> int:
    """The next picture of another class; what is passed over goes back.

    Where other classes are so rare that more than a whole deck was passed over, any of their pictures: else the deck
    would grow with every search.
    """
    passed: list[int] = []
    while len(passed) <= len(rows):
        row = _draw(deck, rows, rng)
        if classes[row] != classes[first]:
            deck.extend(reversed(passed))
            return row
        passed.append(row)
    deck.extend(reversed(passed))
    return int(rng.choice(rows[classes[rows] != classes[first]]))
