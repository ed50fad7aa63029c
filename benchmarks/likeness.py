"""How well the distance from the training images tells other images from a site's own.

Give a model and a store that it was trained on; its test split is 'like'. Against it stand the same images with their
grey levels inverted, turned upside down and by a quarter, noise of the same histogram, and any other files.

    python benchmarks/likeness.py --model runs/first --store store --other cifar10=FOLDER --other dicom=FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from nc_medfl.data.resize import fit_square
from nc_medfl.data.store import open_store
from nc_medfl.errors import NcMedflError, UserError
from nc_medfl.inference.likeness import describe, judge
from nc_medfl.inference.model_file import PortableModel, read_model
from nc_medfl.inference.pixels import to_input
from nc_medfl.inference.reading import read_file
from nc_medfl.inference.scoring import run_network

Squares = npt.NDArray[np.uint8]


def scores_of(model: PortableModel, squares: Squares) -> npt.NDArray[np.float64]:
    """Distance of each image from the training images."""
    if model.description.reference is None:
        raise UserError("the model has no reference. Make it with 'nc-medfl export-model RUN OUT --sites DIR'.")
    out = []
    for start in range(0, len(squares), 64):
        part = squares[start : start + 64]
        features = run_network(model.network, to_input(part, model.description))[1]
        out += [one.score for one in judge(describe(part, features, model.reference), model.description.reference)]
    return np.array(out)


def auc(like: npt.NDArray[np.float64], unlike: npt.NDArray[np.float64]) -> float:
    """The chance that an unlike image has the higher score, ties counted half."""
    greater = (unlike[:, None] > like[None]).mean() + 0.5 * (unlike[:, None] == like[None]).mean()
    return float(greater)


def any_square(path: Path, model: PortableModel) -> Squares | None:
    """A file prepared as any other; colour pictures, which are refused, are made grey: the score alone judges."""
    if not path.is_file():
        return None
    given = read_file(path, model.description)
    if given.square is not None:
        return given.square
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    return None if grey is None else fit_square(grey.astype(np.float32) / 255, model.description.preparation.size)[0]


def shuffled(squares: Squares) -> Squares:
    """The same grey levels in another order: noise of each image's own histogram."""
    flat = np.random.default_rng(0).permuted(squares.reshape(len(squares), -1), axis=1)
    return flat.reshape(squares.shape)


def main() -> None:
    """Measure and print; with --json write the numbers to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model, store = read_model(args.model), open_store(args.store)
    own = store.images(store.positions(args.split))
    kinds = {
        "own, inverted": 255 - own,
        "own, upside down": np.ascontiguousarray(own[:, ::-1]),
        "own, quarter turn": np.ascontiguousarray(np.rot90(own, axes=(1, 2))),
        "own, pixels shuffled": shuffled(own),
    }
    for given in args.other:
        name, _, folder = given.partition("=")
        read = [square for path in sorted(Path(folder).rglob("*")) if (square := any_square(path, model)) is not None]
        if read:
            kinds[name] = np.stack(read)
    like = scores_of(model, own)
    limit = model.description.reference.limit if model.description.reference else float("nan")
    rows = [{"name": f"own {args.split} images", "n": len(own), "auc": None, "flagged": float((like > limit).mean())}]
    for name, squares in kinds.items():
        scores = scores_of(model, squares)
        flagged = float((scores > limit).mean())
        rows.append({"name": name, "n": len(squares), "auc": auc(like, scores), "flagged": flagged})
    for row in rows:
        shown = "" if row["auc"] is None else f"AUC {row['auc']:.3f}"
        print(f"{row['name']:<24} n {row['n']:>5}  flagged {row['flagged']:>6.1%}  {shown}")
    if args.json:
        content = [
            {
                "name": f"likeness: {r['name']}",
                "value": r["flagged"],
                "unit": "share flagged",
                "baseline": None,
                "ratio": None,
                "settings": {"n": r["n"], "auc": r["auc"], "limit": limit},
            }
            for r in rows
        ]
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except NcMedflError as error:
        sys.exit(f"likeness.py: {error}")
