"""Where a drawn finding lies: what its mark changed on the film, as boxes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from nc_medfl.data.synthetic.anatomy import LEFT, RIGHT, Field, Film, Mask, Points

#: Columns of ``boxes.csv``, those of NIH's ``BBox_List_2017.csv``; pixels of the source image, y downwards.
COLUMNS = ("Image Index", "Finding Label", "x", "y", "w", "h")

#: A pixel belongs to a finding where it changed by this share of the largest change.
_CHANGED = 0.25
#: Parts closer than this share of the picture's side are one.
_NEAR = 0.03
#: Parts smaller than this share of the largest are left out: they are grain, not the finding.
_SMALL = 0.05


@dataclass(frozen=True)
class FindingBox:
    """One place of one finding, in units of the picture's side."""

    finding: str
    x: float
    y: float
    width: float
    height: float


def place_of(finding: str, film: Film, before: Field) -> Mask:
    """The pixels that show a finding, bool ``[size, size]``, before the pose.

    Args:
        finding: its name.
        film: after its mark was drawn.
        before: the composed film before that.
    """
    if finding == "Cardiomegaly":  # all in the shape of the heart
        return np.asarray(film.heart > 0.5)
    if finding == "Emphysema":  # both lungs are overinflated
        return np.asarray(film.lungs[RIGHT] | film.lungs[LEFT])
    change = np.abs(film.compose() - before)
    return np.asarray(change > max(_CHANGED * float(change.max()), 1e-6))


def boxes_of(finding: str, mask: Mask, pose: Points) -> list[FindingBox]:
    """A box a connected part, after the pose; from left to right.

    Args:
        finding: its name.
        mask: bool ``[size, size]``.
        pose: the film's, ``[2, 3]``.
    """
    size = mask.shape[0]
    posed = cv2.warpAffine(mask.astype(np.uint8), pose, (size, size), flags=cv2.INTER_NEAREST)
    reach = max(1, round(_NEAR * size))
    near = cv2.dilate(posed, np.ones((reach, reach), dtype=np.uint8))
    count, parts = cv2.connectedComponents(near)
    areas = [int(((parts == k) & (posed > 0)).sum()) for k in range(1, count)]
    found = []
    for k, area in enumerate(areas, start=1):
        if not area or area < _SMALL * max(areas):
            continue
        rows, columns = np.nonzero((parts == k) & (posed > 0))
        left, top = int(columns.min()), int(rows.min())
        width, height = int(columns.max()) + 1 - left, int(rows.max()) + 1 - top
        found.append(FindingBox(finding, left / size, top / size, width / size, height / size))
    return sorted(found, key=lambda box: (box.x, box.y))


def box_rows(file: str, boxes: Sequence[FindingBox], rows: int, columns: int) -> list[list[str]]:
    """Lines of ``boxes.csv`` for one image of ``rows`` by ``columns`` pixels."""
    return [
        [
            file,
            box.finding,
            *(f"{v:.2f}" for v in (box.x * columns, box.y * rows, box.width * columns, box.height * rows)),
        ]
        for box in boxes
    ]


def boxes_text(rows: Sequence[Sequence[str]]) -> str:
    """The whole table as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return buffer.getvalue()
