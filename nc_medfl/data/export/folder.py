"""The folder of an export: names, the manifest beside the files, what an earlier export left."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nc_medfl.data.manifest import LABEL, RAW
from nc_medfl.data.store import Store, write_atomic
from nc_medfl.errors import UserError, writing

EXPORT = "export"
MANIFEST_CSV = "manifest.csv"
#: What a sample may be called: letters, digits, '-', '_': so that no name leads out of the folder.
_SAMPLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: Where things lie in the store, and not in an export.
_LEFT_OUT = ("shard", "row")


@dataclass(frozen=True)
class ExportSummary:
    """What an export did.

    Attributes:
        folder: where it lies.
        images: files in it, all of them read back and equal.
        written: how many of them were written now; the others stood already.
    """

    folder: Path
    images: int
    written: int


def begin(store: Store, kind: str, suffix: str, folder: Path | None = None) -> tuple[Path, dict[str, str]]:
    """Make the folder of an export and take away what is no longer in the store.

    Args:
        store: what is exported.
        kind: ``png``, ``nifti`` or ``dicom``.
        suffix: of the files, with the dot.
        folder: where to; ``export/<kind>`` in the store if None.

    Returns:
        The folder, and the file name of each sample.

    Raises:
        UserError: if the folder can't be made or holds other files.
    """
    folder = store.folder / EXPORT / kind if folder is None else folder
    names = {str(sample): f"{sample}{suffix}" for sample in store.manifest["sample_id"]}
    odd = next((name for name in names if not _SAMPLE.fullmatch(name)), None)
    if odd is not None:
        raise UserError(f"{store.folder}: a sample_id is not usable as a file name. Prepare the store again.")
    with writing(folder, "Mend that and export again."):
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder, suffix, set(names.values()))
    return folder, names


def _clear(folder: Path, suffix: str, wanted: Collection[str]) -> None:
    present = {path.name for path in folder.iterdir()}
    ours = {n for n in present if n == MANIFEST_CSV or n.endswith((suffix, ".tmp"))}
    if present - ours:
        raise UserError(f"{folder}: holds other files. Give an empty folder, or an earlier export's.")
    # The list comes last and goes first: a folder with one is whole.
    (folder / MANIFEST_CSV).unlink(missing_ok=True)
    for name in ours - set(wanted) - {MANIFEST_CSV}:
        (folder / name).unlink()


def put(path: Path, content: bytes) -> bool:
    """Write a file unless it stands already with these bytes. Returns whether it was written.

    Raises:
        UserError: if it can't be written.
    """
    with writing(path.parent, "Mend that and export again; what is done is kept."):
        if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
            return False
        write_atomic(path, content)
    return True


def mismatch(path: Path) -> UserError:
    """The error of a file that reads back as something else."""
    return UserError(f"{path}: does not read back as it was written. Check the disk, delete the file and export again.")


def finish(store: Store, folder: Path, names: Mapping[str, str], spacing: Mapping[str, float] | None = None) -> None:
    """Write ``manifest.csv``: a line a file, relative name first, then the store's manifest.

    ``raw:`` columns are left out: they hold what a table said, word for word.

    Args:
        store: what was exported.
        folder: the export.
        names: file names by sample.
        spacing: mm a pixel of the exported picture, by sample, for a column ``file_spacing``.
    """
    frame = store.manifest
    columns = [name for name in frame.columns if name not in _LEFT_OUT and not name.startswith(RAW)]
    header = ["file", *(["file_spacing"] if spacing is not None else []), *columns]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for values in frame[columns].itertuples(index=False, name=None):
        sample = str(values[columns.index("sample_id")])
        if sample in names:
            extra = [_text("spacing", spacing.get(sample))] if spacing is not None else []
            cells = [_text(name, value) for name, value in zip(columns, values, strict=True)]
            writer.writerow([names[sample], *extra, *cells])
    put(folder / MANIFEST_CSV, buffer.getvalue().encode())


def _text(column: str, value: object) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return ""
    if column.startswith(LABEL):
        return str(int(value))  # type: ignore[call-overload]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def keep_samples(store: Path, samples: Collection[str]) -> int:
    """Take all other samples out of every export in a store: their files, then their lines.

    Args:
        store: the store's folder.
        samples: what may stay, by ``sample_id``.

    Returns:
        How many files were removed.
    """
    removed = 0
    for folder in sorted(path for path in (store / EXPORT).iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.name != MANIFEST_CSV and path.name.split(".", 1)[0] not in samples:
                path.unlink()
                removed += 1
        table = folder / MANIFEST_CSV
        if table.is_file():
            rows = list(csv.reader(io.StringIO(table.read_text(encoding="utf-8"), newline="")))
            place = rows[0].index("sample_id")
            buffer = io.StringIO()
            kept = [row for number, row in enumerate(rows) if number == 0 or row[place] in samples]
            csv.writer(buffer, lineterminator="\n").writerows(kept)
            write_atomic(table, buffer.getvalue().encode())
    return removed
