"""Training images a second of the package's own loop, beside what the backbone alone takes in the same run.

    python benchmarks/training.py [--json FILE] [--csv FILE] [--repeats 5] [--threads 2] [--sides 64 128 224]

ResNet-18, 14 findings, batches of 32 of a store of 256 px, with the default augmentation, in float32 and in mixed
precision. Two comparisons, whose versions take turns:

- with the bare backbone: forward, backward and the optimiser's step of the same ResNet-18 on a tensor that is already
  there, in the same precision and memory layout. What is over is loader, transforms, head and loss.
- at 64 px with a naive loop: a list of PIL pictures, each cropped, turned and normalised by itself in the loop, the
  backbone as it comes, and the method as one would first write it down (see head.py), in float32. Ours is in the
  precision that ``training.precision: auto`` chooses here.

Ratio is our seconds over the baseline's.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from head import Straight
from PIL import Image
from timing import Row, parser, take_turns, write
from torch import Tensor, nn

from nc_medfl.config import JobSettings
from nc_medfl.data.arraystore import memory_store, save_memory_store
from nc_medfl.data.dataset import make_loader
from nc_medfl.data.store import Store, open_store
from nc_medfl.data.transforms import AugmentationSettings
from nc_medfl.labels import load_vocabulary
from nc_medfl.networks import Backbone, simplex_etf
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network
from nc_medfl.training.precision import Choice, Precision, try_out
from nc_medfl.training.trainer import make_optimizer, train_round

BATCH, STORED = 32, 256
CPU = torch.device("cpu")
#: Most that our loop may take over what the backbone takes, and of what the naive loop takes.
BARE_TARGET, NAIVE_TARGET = 1 / 0.95, 1 / 3


def make_store(folder: Path, images: int) -> Store:
    """Smooth noise of 256 px with random labels, on disk, opened as a site opens its own."""
    rng = np.random.default_rng(0)
    vocabulary = load_vocabulary("nih14")
    coarse = torch.from_numpy(rng.random((images, 1, 16, 16), dtype=np.float32))
    smooth = nn.functional.interpolate(coarse, size=STORED, mode="bicubic").clamp(0, 1).mul(255)
    labels = (rng.random((images, len(vocabulary))) < 0.15).astype(np.float32)
    frame = pd.DataFrame({f"label:{name}": labels[:, at] for at, name in enumerate(vocabulary.findings)})
    names = [f"image-{number}" for number in range(images)]
    frame = frame.assign(sample_id=names, patient_key=names, split="train", site="bench")
    pixels = smooth[:, 0].to(torch.uint8).numpy()
    save_memory_store(memory_store(pixels, frame, vocabulary, folder, settings_hash="bench"))
    return open_store(folder)


def job(precision: Choice) -> JobSettings:
    """Training as a job does it."""
    training = {"batch_size": BATCH, "precision": precision}
    return parse(
        JobSettings, {"vocabulary": "nih14", "training": training, "loss": {"absent_from_global": 0}}, where=""
    )


def ours(store: Store, side: int, precision: Choice) -> Callable[[], object]:
    """An epoch of the package's trainer over the store."""
    settings = job(precision)
    network = build_network(settings)

    def batches(epoch: int) -> object:
        return make_loader(
            store,
            "train",
            batch_size=BATCH,
            training=True,
            size=side,
            augmentation=AugmentationSettings(),
            seed=0,
            epoch=epoch,
        )

    return lambda: train_round(network, batches, settings, round_number=0, seed=0)


def bare(side: int, steps: int, precision: Choice) -> Callable[[], object]:
    """As many steps of the backbone alone on one tensor."""
    settings = job(precision)
    backbone = Backbone("resnet18")
    image = torch.rand(BATCH, 1, side, side)
    context = Precision(CPU, precision == "mixed")

    def run() -> None:
        optimizer = make_optimizer(backbone, settings)
        backbone.train()
        for _ in range(steps):
            with context.autocast():
                output = backbone(image)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(output, torch.full_like(output, 1e-3))
            optimizer.step()

    return run


class Naive:
    """The loop of a first script: pictures one at a time, classes one at a time."""

    def __init__(self, store: Store, side: int) -> None:
        rows = store.positions("train")
        self.pictures = [Image.fromarray(picture) for picture in store.images(rows)]
        self.labels = torch.from_numpy(store.labels()[rows])
        self.side = side
        self.backbone = Backbone("resnet18")
        for module in self.backbone.modules():
            if hasattr(module, "enabled"):
                module.enabled = False  # the memory layout that torch starts with
        self.head = Straight(simplex_etf(self.labels.shape[1], 512))
        parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.98), weight_decay=1e-2)

    def read(self, number: int) -> Tensor:
        """One picture: turned, shifted and zoomed, brightened, made small, as a tensor with some noise."""
        draw = random.uniform
        picture = self.pictures[number].rotate(draw(-7, 7), Image.Resampling.BILINEAR)
        side = STORED * draw(0.92, 1.08)
        left, top = (STORED - side) / 2 + draw(-12, 12), (STORED - side) / 2 + draw(-12, 12)
        box = (left, top, left + side, top + side)
        picture = picture.transform((STORED, STORED), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
        picture = picture.resize((self.side, self.side), Image.Resampling.BILINEAR)
        values = torch.from_numpy(np.array(picture, dtype=np.float32) / 255)[None]
        values = values ** float(np.exp(draw(-0.2, 0.2)))
        return values + draw(0, 0.02) * torch.randn_like(values)

    def epoch(self) -> None:
        """Train on every picture once."""
        order = list(range(len(self.pictures)))
        random.shuffle(order)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            image = torch.stack([self.read(number) for number in chosen])
            loss = self.head.loss(self.backbone(image), self.labels[chosen])
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()


def measure(sides: Sequence[int], repeats: int, clock: str) -> list[Row]:
    """All rows."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            steps = 4 if side <= 64 else 2
            store = make_store(Path(folder) / str(side), steps * BATCH)
            for precision in ("float32", "mixed"):
                runs = {"ours": ours(store, side, precision), "bare": bare(side, steps, precision)}
                rows.append(_row(f"training_{side}_{precision}", runs, steps, repeats, clock, BARE_TARGET))
            if side == 64:
                trial = try_out(build_network(job("float32")), (BATCH, 1, side, side))
                print(trial, flush=True)
                runs = {"ours": ours(store, side, trial.chosen), "naive": Naive(store, side).epoch}
                rows.append(_row(f"training_{side}_naive", runs, steps, repeats, clock, NAIVE_TARGET))
                rows[-1]["settings"]["precision"] = trial.chosen
    return rows


def _row(name: str, runs: dict[str, Callable[[], object]], steps: int, repeats: int, clock: str, target: float) -> Row:
    seconds = take_turns(runs, repeats, clock)
    images = steps * BATCH
    other = next(key for key in runs if key != "ours")
    words = {"bare": "the bare backbone on a ready tensor", "naive": "a naive loop in float32"}
    row: Row = {
        "name": name,
        "value": round(images / seconds["ours"], 2),
        "unit": "images a second",
        "baseline": words[other],
        "ratio": round(seconds["ours"] / seconds[other], 4),
        "settings": {
            "baseline_images_a_second": round(images / seconds[other], 2),
            "threads": torch.get_num_threads(),
            "repeats": repeats,
            "clock": clock,
            "target": round(target, 4),
        },
    }
    print(f"{name}: {row['value']} images a second, {row['settings']['baseline_images_a_second']} by {words[other]}")
    return row


def main() -> None:
    """Run all, print, write JSON and CSV on request."""
    options = parser(__doc__, repeats=5)
    options.add_argument("--sides", type=int, nargs="+", default=[64, 128, 224], help="pixels")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    random.seed(0)
    write(measure(arguments.sides, arguments.repeats, arguments.clock), arguments.json, arguments.csv)


if __name__ == "__main__":
    main()
