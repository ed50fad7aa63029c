"""What the server writes down while a federation runs: long tables and a progress file."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nc_medfl.data.store import write_json
from nc_medfl.errors import NcMedflError
from nc_medfl.federation import keys

ROUND_COLUMNS = ("round", "site", "split", "finding", "metric", "value", "n_positive", "n_annotated", "reason")
COLLAPSE_COLUMNS = ("round", "finding", "metric", "value", "reason")
PRIVACY_COLUMNS = ("round", "site", "quantity", "value", "reason")
UPDATE_COLUMNS = ("round", "site", "outcome", "reason", "n_samples", "bytes_down", "bytes_up", "precision")


@contextmanager
def results_folder(run_folder: str) -> Iterator[Path]:
    """The folder of what the server writes of a job, made if it is missing.

    An error of ours that ends the job is written there first: FLARE tells a caller that it ended, not why.
    """
    folder = Path(run_folder) / keys.RESULTS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except NcMedflError as error:
        write_json(folder / keys.SERVER_ERROR, {"kind": type(error).__name__, "message": str(error)})
        raise


class RoundLog:
    """Appends rows to the run's tables; every row is on disk before the next round starts.

    Args:
        folder: made if it is missing; tables of an earlier run in it are replaced.
        saved: folder with the tables of finished rounds, to go on from. Rows of an unfinished round are not in them.
    """

    def __init__(self, folder: Path, saved: Path | None = None) -> None:
        self.folder = folder
        #: Told of every row that is written: the table, the round, the rows.
        self.listener: Callable[[str, int, Sequence[Mapping[str, Any]]], None] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._columns: dict[str, tuple[str, ...]] = {
            keys.ROUNDS_CSV: ROUND_COLUMNS,
            keys.COLLAPSE_CSV: COLLAPSE_COLUMNS,
            keys.UPDATES_CSV: UPDATE_COLUMNS,
            keys.PRIVACY_CSV: PRIVACY_COLUMNS,
        }
        for name, columns in tuple(self._columns.items()):
            if saved:
                shutil.copyfile(saved / name, folder / name)
                self._columns[name] = _header(folder / name) or columns  # an earlier package may have written fewer
                continue
            with (folder / name).open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerow(columns)
        _end_with_whole_line(folder / keys.PROGRESS, keep=saved is not None)

    def add(self, table: str, round_number: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows of one round to ``rounds.csv``, ``collapse.csv``, ``updates.csv`` or ``privacy.csv``."""
        columns, rows = self._columns[table], list(rows)
        with (self.folder / table).open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            for row in rows:
                full = {"round": round_number, **row}
                writer.writerow([_text(full.get(column)) for column in columns])
        if self.listener:
            self.listener(table, round_number, rows)

    def progress(self, **event: Any) -> None:
        """Append one event for whoever watches the run."""
        with (self.folder / keys.PROGRESS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(event) + "\n")


def _header(path: Path) -> tuple[str, ...]:
    with path.open(newline="", encoding="utf-8") as stream:
        return tuple(next(csv.reader(stream), ()))


def _end_with_whole_line(path: Path, *, keep: bool) -> None:
    """Start a file of lines, or go on with it: whoever reads it has counted the lines, and a kill may have cut one."""
    content = path.read_bytes() if keep and path.is_file() else b""
    path.write_bytes(content[: content.rfind(b"\n") + 1])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
