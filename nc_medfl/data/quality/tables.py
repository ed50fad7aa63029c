"""The counts of a store that its quality page tells, as JSON values, small ones withheld."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydicom.uid import UID

from nc_medfl.data.manifest import LABEL, SPLITS
from nc_medfl.data.quality.counts import guarded
from nc_medfl.data.quality.measure import Measures
from nc_medfl.data.store import Store
from nc_medfl.labels import NO_FINDING

Floats = npt.NDArray[np.float64]

_SPACING_STEP, _SPACING_TOP = 0.05, 1.2
_PIXEL_STEP, _PIXEL_TOP = 256, 5120

#: Title of each table of categories, and the manifest column that it counts.
CATEGORIES = {
    "split": "Split",
    "modality": "Modality",
    "view": "View",
    "sex": "Sex",
    "transfer_syntax": "Transfer syntax",
    "voi_source": "Where the grey scale comes from",
    "photometric": "Photometric interpretation",
    "bits": "Bits stored",
    "lossy": "Compressed with loss",
    "burned_in": "Burned-in text, as the header says",
}


def outcome_counts(store: Store) -> dict[str, int | None]:
    """Files by outcome, of all that the preparation met."""
    return guarded({str(name): int(count) for name, count in dict(store.info.get("counts") or {}).items()})


def category_tables(store: Store) -> dict[str, dict[str, int | None]]:
    """Images by each of :data:`CATEGORIES`; what isn't known is counted as ``unknown``."""
    tables = {}
    for column in CATEGORIES:
        counts = Counter(_term(column, value) for value in store.manifest[column])
        order = list(SPLITS) if column == "split" else []
        names = [*(n for n in order if n in counts), *sorted(set(counts) - set(order))]
        tables[column] = guarded({name: counts[name] for name in names})
    return tables


def _term(column: str, value: object) -> str:
    if pd.isna(value) or value == "" or value == -1:  # type: ignore[call-overload]
        return "unknown"
    if column == "lossy":
        return "yes" if value else "no"
    return UID(str(value)).name if column == "transfer_syntax" else str(value)


def age_table(store: Store) -> dict[str, int | None]:
    """Images by the patient's decade of life; the last is 90 and over, as ages are capped there."""
    ages = store.manifest["age"].to_numpy(dtype=np.float64)
    known = ages[~np.isnan(ages)]
    bands = {f"{low}-{low + 9}": int(((known >= low) & (known < low + 10)).sum()) for low in range(0, 90, 10)}
    return guarded({**bands, "90+": int((known >= 90).sum()), "unknown": int(np.isnan(ages).sum())})


def label_table(store: Store) -> dict[str, dict[str, int | None]]:
    """Positive, negative and unknown labels of each finding, ``No Finding`` last."""
    out = {}
    for name in (*store.vocabulary.findings, NO_FINDING):
        values = store.manifest[f"{LABEL}{name}"].to_numpy(dtype=np.float64)
        out[name] = guarded(
            {
                "positive": int((values == 1).sum()),
                "negative": int((values == 0).sum()),
                "unknown": int(np.isnan(values).sum()),
            }
        )
    return out


def histograms(store: Store, found: Measures) -> dict[str, dict[str, Any]]:
    """Distributions: title, edges ``[K + 1]`` and counts ``[K]``, and images whose value isn't known."""
    frame = store.manifest
    spacing = frame["spacing"].to_numpy(dtype=np.float64)
    sides = {side: frame[side].to_numpy(dtype=np.float64) for side in ("rows", "cols")}
    steps = np.arange(0, _SPACING_TOP + _SPACING_STEP / 2, _SPACING_STEP)
    pixels = np.arange(0, _PIXEL_TOP + 1, _PIXEL_STEP, dtype=np.float64)
    return {
        "mean": histogram("Mean grey level of an image (0 black, 1 white)", found.mean, np.linspace(0, 1, 21)),
        "deviation": histogram("Standard deviation of its grey levels", found.deviation, np.linspace(0, 0.5, 21)),
        "spacing": histogram("Pixel spacing of the source, mm", spacing, steps),
        "rows": histogram("Rows of the source", np.where(sides["rows"] > 0, sides["rows"], np.nan), pixels),
        "cols": histogram("Columns of the source", np.where(sides["cols"] > 0, sides["cols"], np.nan), pixels),
    }


def histogram(title: str, values: Floats, edges: Sequence[float] | Floats) -> dict[str, Any]:
    """Counts of values between edges; what lies above the last edge is counted in the last bin.

    Empty bins at both ends are left out.
    """
    known = values[~np.isnan(values)]
    limits = np.asarray(edges, dtype=np.float64)
    counts, _ = np.histogram(np.clip(known, limits[0], limits[-1]), bins=limits)
    full = np.flatnonzero(counts)
    first, last = (int(full[0]), int(full[-1])) if len(full) else (0, -1)
    shown = guarded({k: int(counts[k]) for k in range(first, last + 1)} | {-1: int(np.isnan(values).sum())})
    unknown = shown.pop(-1)
    return {
        "title": title,
        "edges": [round(float(edge), 4) for edge in limits[first : last + 2]],
        "counts": list(shown.values()),
        "above": bool(len(known) and known.max() > limits[-1]),
        "unknown": unknown,
    }


def prevalence(counts: Mapping[str, int | None]) -> float | None:
    """Positives over annotated images, or None where one of the counts is withheld or nobody annotated."""
    positive, negative = counts["positive"], counts["negative"]
    if positive is None or negative is None or positive + negative == 0:
        return None
    return positive / (positive + negative)
