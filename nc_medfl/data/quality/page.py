"""``quality.json`` and the page made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
from markupsafe import Markup

from nc_medfl.data.manifest import LABEL
from nc_medfl.data.quality import tables
from nc_medfl.data.quality.bars import bar_chart
from nc_medfl.data.quality.counts import MINIMUM
from nc_medfl.data.quality.measure import Progress, measure, outliers
from nc_medfl.data.review import data_url
from nc_medfl.data.store import Store, write_atomic, write_json
from nc_medfl.errors import UserError
from nc_medfl.pages import environment

QUALITY_HTML, QUALITY_JSON = "quality.html", "quality.json"
SCHEMA_VERSION = 1
#: Outliers on the page; ``quality.json`` has them all.
_MOST_OUTLIERS = 200
_THUMBNAIL = 112


def write_quality(store: Store, *, thumbnails: bool = False, progress: Progress | None = None) -> tuple[Any, Any]:
    """Write ``quality.html`` and ``quality.json`` of a store.

    They hold numbers and keyed sample ids. Counts under :data:`MINIMUM` are withheld in both. The same store gives the
    same bytes.

    Args:
        store: what to describe.
        thumbnails: show the images that stand out. The page then holds patients' pixels.
        progress: called with (images done, images in all).

    Returns:
        The paths of both.

    Raises:
        UserError: if they can't be written.
    """
    content = describe(store, progress)
    page, data = store.folder / QUALITY_HTML, store.folder / QUALITY_JSON
    try:
        write_json(data, content)
        write_atomic(page, _page(store, content, thumbnails=thumbnails).encode())
    except OSError as error:
        raise UserError(f"{page}: cannot be written ({error.strerror}). Mend that and run again.") from error
    return page, data


def quality_needs(column: str) -> bool:
    """Whether the page is made of this column of the manifest; the others need not be read for it."""
    told = {"sample_id", "patient_key", "shard", "row", "pad_box", "age", "spacing", "rows", "cols", *tables.CATEGORIES}
    return column in told or column.startswith(LABEL)


def refresh_quality(store: Store) -> bool:
    """Write the page again if there is one, without thumbnails. Returns whether there was one."""
    if not any((store.folder / name).exists() for name in (QUALITY_HTML, QUALITY_JSON)):
        return False
    write_quality(store)
    return True


def describe(store: Store, progress: Progress | None = None) -> dict[str, Any]:
    """What ``quality.json`` says.

    Args:
        store: what to describe.
        progress: called with (images done, images in all).
    """
    found = measure(store, progress)
    samples = store.manifest["sample_id"]
    return {
        "schema_version": SCHEMA_VERSION,
        "minimum": MINIMUM,
        "images": len(store),
        "patients": int(store.manifest["patient_key"].nunique()),
        "size": store.size,
        "vocabulary": store.vocabulary.name,
        "settings": _settings(store.info.get("settings") or {}),
        "outcomes": tables.outcome_counts(store),
        "categories": tables.category_tables(store),
        "age": tables.age_table(store),
        "labels": tables.label_table(store),
        "histograms": tables.histograms(store, found),
        "outliers": [
            {
                "sample_id": str(samples.iloc[position]),
                "reasons": reasons,
                "mean": round(float(found.mean[position]), 3),
                "deviation": round(float(found.deviation[position]), 3),
            }
            for position, reasons in outliers(found).items()
        ],
    }


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ("site", "source", "label_map", "uncertain", "reader") if key in settings}


def _page(store: Store, content: Mapping[str, Any], *, thumbnails: bool) -> str:
    shown = content["outliers"][:_MOST_OUTLIERS]
    template = environment("nc_medfl.data").get_template("quality.html.j2")
    return template.render(
        content=content,
        site=str(content["settings"].get("site", "")),
        thumbnails=_thumbnails(store, [entry["sample_id"] for entry in shown]) if thumbnails else {},
        outcomes=sorted(content["outcomes"].items(), key=lambda item: (item[0] != "ok", -(item[1] or 0), item[0])),
        categories=[(tables.CATEGORIES[name], content["categories"][name]) for name in tables.CATEGORIES],
        age=(bar_chart("age", "Images by decade of age", *_columns(content["age"])), content["age"]),
        histograms=[(name, _histogram(name, part), part) for name, part in content["histograms"].items()],
        labels=[(name, counts, tables.prevalence(counts)) for name, counts in content["labels"].items()],
        outliers=shown,
        more=len(content["outliers"]) - len(shown),
        count=_count,
    )


def _columns(counts: Mapping[str, int | None]) -> tuple[list[str], list[int | None]]:
    return list(counts), list(counts.values())


def _histogram(name: str, part: Mapping[str, Any]) -> Markup:
    edges: Sequence[float] = part["edges"]
    ticks = [f"{low:g}" for low in edges[:-1]]
    return bar_chart(name, str(part["title"]), ticks, part["counts"], last_tick=f"{edges[-1]:g}", joined=True)


def _count(count: int | None) -> str:
    return "withheld" if count is None else f"{count:,}"


def _thumbnails(store: Store, samples: Sequence[str]) -> dict[str, str]:
    place = {str(sample): position for position, sample in enumerate(store.manifest["sample_id"])}
    size = min(_THUMBNAIL, store.size)
    out = {}
    for sample in samples:
        small = cv2.resize(store.image(place[sample]), (size, size), interpolation=cv2.INTER_AREA)
        out[sample] = data_url(small)
    return out
