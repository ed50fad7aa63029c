"""How well a model's maps do on a store: ``deletion.csv`` and ``pointing.csv``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nc_medfl.data.boxes import Box, box_mask, boxes_in_store
from nc_medfl.data.store import Store, open_store, write_atomic
from nc_medfl.errors import UserError, writing
from nc_medfl.inference.deletion import FRACTIONS, ORDERS, area_between, deletion_curves, mean_rows, points_at
from nc_medfl.inference.looking import feature_map, look_at
from nc_medfl.inference.model_file import PortableModel
from nc_medfl.inference.pixels import to_input
from nc_medfl.inference.reading import prepared_otherwise

Floats = npt.NDArray[np.float64]
Places = Mapping[str, Sequence[Box]]

#: As in ``metrics.csv``.
COLUMNS = (
    *("run", "model", "site", "split", "group", "finding", "metric", "value", "low", "high"),
    *("n_positive", "n_annotated", "reason"),
)
DELETION_CSV, POINTING_CSV = "deletion.csv", "pointing.csv"
_BATCH = 64
_REMEDY = "Give --out another folder."


def score_stores(
    model: PortableModel,
    stores: Sequence[Path],
    split: str,
    out: Path,
    *,
    boxes: Sequence[Path] = (),
    resamples: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the tables.

    Args:
        model: as read.
        stores: prepared as the model needs; pooled, with each patient of each store one patient.
        split: train, val or test.
        out: the folder; made if missing.
        boxes: a table of boxes a store, in their order, or none.
        resamples: of patients.
        seed: of random orders and resamples.
        progress: called with (images done, images in all).

    Raises:
        UserError: if a store is missing, prepared otherwise, has no positive image, or has no table of boxes.
    """
    if boxes and len(boxes) != len(stores):
        raise UserError(f"--boxes: {len(boxes)} tables for {len(stores)} stores. Give one a store, in their order.")
    opened = [_open(model, path) for path in stores]
    places = [boxes_in_store(store, path) for store, path in zip(opened, boxes, strict=True)] if boxes else []
    _make(out)
    total = sum(len(store.positions(split)) for store in opened)
    done = 0
    parts: list[dict[str, Floats]] = []
    patients: list[str] = []
    for number, store in enumerate(opened):
        rng = np.random.default_rng([seed, number])
        rows = store.positions(split)
        for start in range(0, len(rows), _BATCH):
            some = rows[start : start + _BATCH]
            parts.append(_measure(model, store, some, places[number] if places else {}, rng))
            patients += [f"{number}/{key}" for key in store.manifest["patient_key"].iloc[some]]
            done += len(some)
            if progress is not None:
                progress(done, total)
    if not parts:
        raise UserError(f"no image in the split '{split}' of the stores. Give another --split.")
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    about = {"run": model.description.name, "model": model.description.method, "split": split, "group": "all"}
    about["site"] = "pooled" if len(opened) > 1 else str(opened[0].manifest["site"].iloc[0] or "site")
    _clear(out)
    written = []
    for name, pointing in ((DELETION_CSV, False), (POINTING_CSV, True)):
        chosen = {k: v for k, v in values.items() if k.startswith("pointing") == pointing}
        if chosen and (places or not pointing):
            table = mean_rows(chosen, patients, model.description.findings, resamples=resamples, seed=seed)
            written.append(_write(out / name, [{**about, **row, "n_annotated": row["n_positive"]} for row in table]))
    return written


def _make(out: Path) -> None:
    """Make the folder: one that can't be made is told before anything is measured."""
    with writing(out, _REMEDY):
        out.mkdir(parents=True, exist_ok=True)


def _clear(out: Path) -> None:
    """Take away tables of an earlier run, which may be another model's."""
    with writing(out, _REMEDY):
        for name in (DELETION_CSV, POINTING_CSV):
            (out / name).unlink(missing_ok=True)


def _open(model: PortableModel, path: Path) -> Store:
    store = open_store(path)
    found = prepared_otherwise(path, model.description)
    if found:
        raise UserError(f"{path}: prepared otherwise: {found}. Prepare it as the training data was.")
    return store


def _measure(
    model: PortableModel, store: Store, rows: npt.NDArray[np.int64], places: Places, rng: np.random.Generator
) -> dict[str, Floats]:
    """By metric ``[B, C]``, NaN where an image does not count."""
    image = to_input(store.images(rows), model.description)
    maps = look_at(model.network, image).mean
    flat = maps.reshape(*maps.shape[:2], -1).astype(np.float64)
    curves = deletion_curves(model.network, feature_map(model.network, image), flat, rng)
    positive = store.labels()[rows] == 1
    found: dict[str, Floats] = {
        "deletion_area_random_most": area_between(curves["random"], curves["most"]),
        "deletion_area_least_most": area_between(curves["least"], curves["most"]),
    }
    for order in ORDERS:
        found |= {f"score_without_{order}@{f:.1f}": curves[order][..., k] for k, f in enumerate(FRACTIONS)}
    found = {name: np.where(positive, value, np.nan) for name, value in found.items()}
    return found | _pointing(model, store, rows, maps, positive, places)


def _pointing(
    model: PortableModel,
    store: Store,
    rows: npt.NDArray[np.int64],
    maps: npt.NDArray[np.float32],
    positive: npt.NDArray[np.bool_],
    places: Places,
) -> dict[str, Floats]:
    hit, chance = np.full((2, *positive.shape), np.nan)
    samples = store.manifest["sample_id"].iloc[rows].tolist()
    pads = store.manifest["pad_box"].iloc[rows].tolist()
    for i, (sample, pad) in enumerate(zip(samples, pads, strict=True)):
        for c, finding in enumerate(model.description.findings):
            own = [box for box in places.get(sample, ()) if box.finding == finding]
            if own and positive[i, c]:
                mask = box_mask(own, store.size)
                point = points_at(maps[i, c], store.size)
                hit[i, c] = point is not None and mask[point]
                chance[i, c] = mask.sum() / _area(str(pad), store.size)
    return {"pointing_hit": hit, "pointing_chance": chance, "pointing_above_chance": hit - chance}


def _area(pad: str, size: int) -> int:
    parts = [int(part) for part in pad.split(",") if part.strip().isdigit()]
    return parts[2] * parts[3] if len(parts) == 4 else size * size


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _text(row[name]) for name in COLUMNS})
    write_atomic(path, stream.getvalue().encode())
    return path


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)
