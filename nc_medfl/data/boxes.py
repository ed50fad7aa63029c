"""Where findings lie, as boxes: a table over source images, and the same in the squares of a store.

The table has the columns of NIH's ``BBox_List_2017.csv``: ``Image Index``, ``Finding Label``, and four numbers ``x, y,
w, h`` in pixels of the source image, y downwards (NIH writes them under ``Bbox [x``, ``y``, ``w``, ``h]``).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from nc_medfl.data.sourcelist import read_sources
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError

#: Names that NIH's list gives findings of its own table.
_OTHER_NAMES = {"Infiltrate": "Infiltration"}


@dataclass(frozen=True)
class Box:
    """One place of one finding, pixels of whichever picture it is in."""

    finding: str
    x: float
    y: float
    width: float
    height: float


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """Boxes by the file name of their image.

    Raises:
        UserError: in one line with its number, if something in it is no box.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = list(csv.reader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV table. Give --boxes a table of boxes.") from error
    if not lines or [name.strip() for name in lines[0][:2]] != ["Image Index", "Finding Label"]:
        raise UserError(f"{path}: does not begin with the columns Image Index, Finding Label. Give a table of boxes.")
    found: dict[str, list[Box]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if any(cell.strip() for cell in line):
            name, box = _box(path, number, line)
            found.setdefault(name, []).append(box)
    return found


def _box(path: Path, number: int, line: Sequence[str]) -> tuple[str, Box]:
    try:
        x, y, width, height = map(float, line[2:6])
    except ValueError as error:
        raise UserError(f"{path}, line {number}: needs four numbers x, y, w, h. Correct it.") from error
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise UserError(f"{path}, line {number}: w and h of a box are more than 0. Correct it.")
    finding = line[1].strip()
    return line[0].strip(), Box(_OTHER_NAMES.get(finding, finding), x, y, width, height)


def to_square(box: Box, rows: int, cols: int, pad_box: tuple[int, int, int, int]) -> Box:
    """A box of a source image in the square that the image was fitted into.

    Args:
        box: pixels of the source.
        rows: of the source.
        cols: of the source.
        pad_box: (top, left, height, width) of the picture inside its square.
    """
    top, left, height, width = pad_box
    across, down = width / cols, height / rows
    return Box(box.finding, left + box.x * across, top + box.y * down, box.width * across, box.height * down)


def boxes_in_store(store: Store, path: Path) -> dict[str, list[Box]]:
    """Boxes of a table in the squares of a store, by sample id.

    The store's own list of sources, which never leaves the site, leads from file names to samples.

    Raises:
        UserError: if the store has no such list, no image of it is in the table, or most boxes are of findings that
            their images do not have.
    """
    by_name = read_boxes(path)
    about = store.manifest.set_index("sample_id")
    found: dict[str, list[Box]] = {}
    for source in read_sources(store.folder):
        boxes = by_name.get(PurePath(source.member).name if source.member else source.path.name)
        if not boxes or source.sample_id not in about.index:
            continue
        row = about.loc[source.sample_id]
        pad = [int(part) for part in str(row["pad_box"]).split(",")]
        place = (pad[0], pad[1], pad[2], pad[3])
        found[source.sample_id] = [to_square(box, int(row["rows"]), int(row["cols"]), place) for box in boxes]
    if not found:
        raise UserError(f"{path}: no image of {store.folder} is in it. Give the boxes of this store's own images.")
    _check_labels(store, path, found)
    return found


def _check_labels(store: Store, path: Path, found: Mapping[str, Sequence[Box]]) -> None:
    """Two hospitals may give their files the same names; their findings tell them apart."""
    findings = {name: c for c, name in enumerate(store.vocabulary.findings)}
    labels = dict(zip(store.manifest["sample_id"], store.labels(), strict=True))
    pairs = {(sample, box.finding) for sample, boxes in found.items() for box in boxes if box.finding in findings}
    values = [float(labels[sample][findings[name]]) for sample, name in pairs]
    known = [value for value in values if not math.isnan(value)]
    if known and sum(value == 1 for value in known) * 2 < len(known):
        raise UserError(
            f"{path}: most of its boxes are of findings that their images in {store.folder} do not have. Name the "
            f"tables of boxes in the order of the stores."
        )


def box_mask(boxes: Sequence[Box], size: int) -> npt.NDArray[np.bool_]:
    """The pixels whose centre lies in one of the boxes, left and upper edge included; bool ``[size, size]``.

    A box too small to hold a centre has the pixel that its own centre lies in.
    """
    mask = np.zeros((size, size), dtype=bool)
    centres = np.arange(size) + 0.5
    for box in boxes:
        rows = (centres >= box.y) & (centres < box.y + box.height)
        columns = (centres >= box.x) & (centres < box.x + box.width)
        inside = rows[:, None] & columns
        if not inside.any():
            y, x = math.floor(box.y + box.height / 2), math.floor(box.x + box.width / 2)
            if 0 <= y < size and 0 <= x < size:
                inside[y, x] = True
        mask |= inside
    return mask
