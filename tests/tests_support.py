"""Things several test modules use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nc_medfl.config import SiteConfig, save_site_config
from nc_medfl.data.store import Store, write_shard, write_store
from nc_medfl.labels import Vocabulary, load_vocabulary

REPOSITORY = Path(__file__).resolve().parents[1]


def tiny_store(
    folder: Path,
    *,
    images: int = 60,
    size: int = 32,
    vocabulary: Vocabulary | None = None,
    seed: int = 0,
    missing: Sequence[str] = (),
    prevalence: float = 0.3,
    site: str = "",
    splits: Mapping[str, float] | None = None,
) -> Store:
    """A store of noise in which a finding shows as a bright square of its own: enough to learn from.

    Two images a patient; patients are dealt to splits in turn.
    """
    vocabulary = vocabulary or load_vocabulary("nih14")
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, len(vocabulary))) < prevalence).astype(np.float32)
    labels[:, [vocabulary.findings.index(name) for name in missing]] = 0
    pictures = rng.integers(0, 120, (images, size, size)).astype(np.uint8)
    cell = size // 4
    for image, finding in zip(*np.nonzero(labels), strict=True):
        top, left = divmod(int(finding), 4)
        pictures[image, top * cell : (top + 1) * cell, left * cell : (left + 1) * cell] += 120
    write_shard(folder, 0, pictures)
    shares = splits or {"train": 0.6, "val": 0.2, "test": 0.2}
    patients = np.arange(images) // 2
    edges = np.cumsum(list(shares.values())) * (images // 2)
    frame = pd.DataFrame(
        {
            "sample_id": [f"{site}{seed}-{i:04d}" for i in range(images)],
            "patient_key": [f"{site}{seed}-p{p:04d}" for p in patients],
            "site": site,
            "split": [list(shares)[int(np.searchsorted(edges, p, side="right"))] for p in patients],
            "pixel_sha256": [f"{site}{seed}-{i}" for i in range(images)],
            "shard": 0,
            "row": np.arange(images),
            "label:No Finding": (labels.sum(axis=1) == 0).astype(np.float32),
        }
        | {f"label:{name}": labels[:, c] for c, name in enumerate(vocabulary.findings)}
    )
    return write_store(folder, frame, vocabulary, size=size, settings={}, counts={"ok": images}, settings_hash="tiny")


def tiny_site(folder: Path, name: str, **kwargs: object) -> Store:
    """``folder/<name>/site.yaml`` with a tiny store beside it."""
    store = tiny_store(folder / name / "store", site=name, **kwargs)  # type: ignore[arg-type]
    save_site_config(SiteConfig(name=name, store=Path("store")), folder / name / "site.yaml")
    return store
