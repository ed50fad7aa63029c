"""NIH ChestX-ray14: ``Data_Entry_2017.csv`` with its folder of PNGs (Wang et al., CVPR 2017).

The PNGs are the display image already, so they are taken as they are: grey, square pixels, full range.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from nc_medfl.data.dicom.deidentify import age_of, sex_of, view_of
from nc_medfl.data.dicom.quarantine import Rejected
from nc_medfl.data.dicom.reader import DEFAULT_POLICY, MAX_PIXELS
from nc_medfl.data.picture import Picture
from nc_medfl.data.radiograph import Facts, Identity, Radiograph, pixel_hash
from nc_medfl.data.sources.base import SourceData, list_files, read_table
from nc_medfl.data.sources.dicom import override
from nc_medfl.labels import Vocabulary, harmonise, load_label_map
from nc_medfl.labels.label_map import Uncertain

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB\x60\x82"


def open_nih(
    images: Path,
    table: Path,
    vocabulary: Vocabulary,
    *,
    label_map: Path | str | None = None,
    image_column: str | None = None,
    uncertain: Uncertain | None = None,
) -> SourceData:
    """Open NIH's label table and its folder of PNGs.

    Args:
        images: folder of PNGs, searched with its subfolders.
        table: ``Data_Entry_2017.csv`` or ``Data_Entry_2017_v2020.csv``, possibly gzipped.
        vocabulary: the findings wanted.
        label_map: another map than the one that comes with the package.
        image_column: overrides the column that names the image.
        uncertain: overrides what becomes of uncertain labels.

    Raises:
        UserError: if the folder, the table or the map can't be used.
    """
    rows = read_table(table)
    chosen = override(load_label_map(label_map or "nih"), image_column, uncertain)
    labels = harmonise(rows, chosen, vocabulary, where=table.name)
    return SourceData(
        kind="picture",
        files=list_files(images, (".png",)),
        labels=labels,
        label_map=f"{chosen.name} {chosen.version}",
        uncertain=chosen.uncertain,
        table=table.name,
        extra=dict(zip(labels.keys, _extra(rows.iloc[list(labels.rows)]), strict=True)),
        match_uid=False,
        public=True,
    )


def _extra(rows: pd.DataFrame) -> list[Mapping[str, str]]:
    """View, sex, age and the height of the original in mm, where the table has them."""
    names = {
        "view": ("View Position",),
        "sex": ("Patient Gender", "Patient Sex"),
        "age": ("Patient Age",),
        "rows": ("Height]",),
        "spacing": ("y]",),
    }
    columns = {key: next((rows[n].tolist() for n in options if n in rows), None) for key, options in names.items()}
    present = {key: values for key, values in columns.items() if values is not None}
    return [dict(zip(present, values, strict=True)) for values in zip(*present.values(), strict=True)] or [
        {} for _ in range(len(rows))
    ]


def facts_of_table(facts: Facts, extra: Mapping[str, str]) -> Facts:
    """Put what the table says of an image into its facts, as closed terms and numbers.

    The table's spacing is that of the original; the PNG covers the same height with fewer rows.
    """
    try:
        spacing: float | None = float(extra["spacing"]) * float(extra["rows"]) / facts.rows
    except (KeyError, ValueError):
        spacing = None
    return Facts(
        rows=facts.rows,
        cols=facts.cols,
        view=view_of(extra.get("view", "")),
        spacing=spacing if spacing and spacing > 0 else None,
        bits=facts.bits,
        photometric=facts.photometric,
        transfer_syntax=facts.transfer_syntax,
        voi_source=facts.voi_source,
        sex=sex_of(extra.get("sex", "")),
        age=age_of(extra.get("age", "")),
    )


def read_picture(path: str | Path) -> Radiograph:
    """Read a PNG radiograph of 8 or 16 bits; colour is brought to grey, transparency left out.

    Raises:
        Rejected: ``empty_file``, ``undecodable``, ``truncated``, ``too_large``, ``too_small`` or ``constant_image``.
    """
    content = Path(path).read_bytes()
    if not content:
        raise Rejected("empty_file", "the file has no bytes")
    _check_png(content)
    stored = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE)
    if stored is None or stored.dtype not in (np.uint8, np.uint16):
        raise Rejected("undecodable", "the PNG decoder refused it")
    if stored.min() == stored.max():
        raise Rejected("constant_image", "all pixels have one value")
    bits = 8 * stored.dtype.itemsize
    top = 2**bits - 1
    picture = Picture(stored, 0, np.arange(top + 1, dtype=np.float32) / np.float32(top))
    facts = Facts(
        rows=stored.shape[0], cols=stored.shape[1], bits=bits, photometric="MONOCHROME2", voi_source="full_range"
    )
    study = hashlib.sha256(content).hexdigest()
    return Radiograph(picture, pixel_hash(stored), 1.0, facts, Identity(study_uid=study))


def _check_png(content: bytes) -> None:
    if content[:8] != _PNG or content[12:16] != b"IHDR" or len(content) < 33:
        raise Rejected("undecodable", "not a PNG")
    if _PNG_END not in content[-64:]:
        raise Rejected("truncated", "the PNG has no end mark")
    cols, rows = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if rows * cols > MAX_PIXELS:
        raise Rejected("too_large", f"{rows} x {cols} pixels, over 2^27")
    if min(rows, cols) < DEFAULT_POLICY.min_side:
        raise Rejected("too_small", f"{rows} x {cols} pixels, a side under {DEFAULT_POLICY.min_side}")
