"""A page of pictures for a person to look through: headers can't prove that no name is burned into the pixels.

It holds pixels, so it lies in ``site_private`` and is never shared. It needs no network and keeps nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from nc_medfl.data.private import FOLDER, private_folder, write_private
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError, writing
from nc_medfl.pages import environment

REVIEW = "review.html"

Progress = Callable[[int, int], None]


def write_review(store: Store, count: int = 100, seed: int = 0, progress: Progress | None = None) -> Path:
    """Write ``site_private/review.html``: a random sample of the stored images, each named by its ``sample_id``.

    Images whose header doesn't say whether something is burned in come first. The same store, count and seed give the
    same page. Print smaller than a few stored pixels shows as specks at most, and the page says so.

    Args:
        store: what to look through.
        count: images on the page; all if the store has fewer.
        seed: of the sample.
        progress: called with (images done, images in all).

    Returns:
        The page.

    Raises:
        UserError: if the count is under 1, or the page can't be written.
    """
    if count < 1:
        raise UserError(f"--review {count}: give the number of images to look at, 1 or more.")
    chosen = sample_for_review(store, count, seed)
    cards = []
    for done, position in enumerate(chosen.tolist(), 1):
        row = store.manifest.iloc[position]
        cards.append(
            {
                "sample": str(row["sample_id"]),
                "unknown": str(row["burned_in"]) != "no",
                "picture": data_url(_without_padding(store.image(position), row["pad_box"])),
            }
        )
        if progress:
            progress(done, len(chosen))
    page = (
        environment("nc_medfl.data")
        .get_template("review.html.j2")
        .render(cards=cards, total=len(store), seed=seed, size=store.size, folder=FOLDER)
    )
    path = store.folder / FOLDER / REVIEW
    with writing(path, "Mend that and run again."):
        private_folder(store.folder)
        write_private(path, page.encode())
    return path


def sample_for_review(store: Store, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Positions of the images to look at, at most ``count``: those of unknown state first, else at random.

    Args:
        store: where from.
        count: how many.
        seed: of the draw, which doesn't depend on the order of the manifest.
    """
    by_name = np.argsort(store.manifest["sample_id"].to_numpy(dtype=str), kind="stable")
    shuffled = by_name[np.random.default_rng(seed).permutation(len(by_name))]
    told = (store.manifest["burned_in"] == "no").fillna(False).to_numpy(dtype=bool)[shuffled]
    out: npt.NDArray[np.int64] = np.concatenate([shuffled[~told], shuffled[told]])[:count].astype(np.int64)
    return out


def _without_padding(square: npt.NDArray[np.uint8], box: Any) -> npt.NDArray[np.uint8]:
    if not isinstance(box, str) or box.count(",") != 3:
        return square
    top, left, height, width = (int(part) for part in box.split(","))
    return square[top : top + height, left : left + width]


def data_url(picture: npt.NDArray[np.uint8]) -> str:
    """A picture as a PNG inside a page."""
    fine, content = cv2.imencode(".png", np.ascontiguousarray(picture))
    if not fine:
        raise UserError("an image can't be written as PNG. Reinstall opencv-python-headless.")
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode()
