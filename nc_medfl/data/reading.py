"""Reading the files of a source: those that need it, in batches, on an engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from nc_medfl.data.engine import Engine, run_batches
from nc_medfl.data.inputs.files import reading_order
from nc_medfl.data.journal import Journal
from nc_medfl.data.sources import SourceData, SourceFile
from nc_medfl.data.worker import Batch, Record, crashed, read_batch
from nc_medfl.errors import UserError

#: Called with files done, files in all, and files by outcome so far. It is told nothing that names a file.
Progress = Callable[[int, int, Mapping[str, int]], None]

_FILES_A_BATCH = 32


@dataclass
class Reading:
    """What is known of the files so far, and how the others are read.

    Attributes:
        source: the files.
        size: side of the stored square.
        journal: where records and pixels are kept until the store is complete.
        engine: where files are read; None: in this process.
        progress: told how far it is.
        jpeg2000_reduce: resolution levels of JPEG 2000 left out.
        records: by file name.
        resumed: files that didn't need to be read.
    """

    source: SourceData
    size: int
    journal: Journal
    engine: Engine | None
    progress: Progress
    jpeg2000_reduce: int = 0
    records: dict[str, Record] = field(default_factory=dict)
    resumed: int = 0

    def resume(self, known: Iterable[Mapping[str, Record]]) -> None:
        """Take over records of files that have not changed since; of several mappings, the later ones count.

        Raises:
            UserError: if a file that was listed is gone.
        """
        for mapping in known:
            for file in self.source.files:
                record = mapping.get(file.name)
                if record is not None and _is_current(file, record):
                    self.records[file.name] = record
        self.resumed = len(self.records)

    def read_rest(self) -> None:
        """Read every file that has no record yet."""
        self._read([file for file in self.source.files if file.name not in self.records], self.resumed)

    def read_again(self, names: frozenset[str]) -> None:
        """Read some files whose record is known and whose pixels are not kept anywhere."""
        self._read([file for file in self.source.files if file.name in names], len(self.records) - len(names))

    def in_order(self) -> list[Record]:
        """The records of all files in the order of their names."""
        return [self.records[file.name] for file in self.source.files]

    def _read(self, waiting: Sequence[SourceFile], done: int) -> None:
        if not waiting:
            return
        total = len(self.source.files)
        outcomes: Counter[str] = Counter(record.outcome for record in self.records.values())
        self.progress(done, total, outcomes)
        batches = self._batches(waiting)
        # Closed at once on an error or Ctrl-C, not when the traceback is forgotten, so that the workers stop.
        with closing(
            run_batches(read_batch, batches, engine=self.engine, split=Batch.singles, crashed=crashed)
        ) as results:
            for records in results:
                self.journal.append(records)
                self.records.update((record.name, record.slim()) for record in records)
                outcomes.update(record.outcome for record in records)
                done += len(records)
                self.progress(done, total, outcomes)

    def _batches(self, files: Sequence[SourceFile]) -> list[Batch]:
        # Few files are cut finer, so that all workers have some and the progress moves.
        workers = 1 if self.engine is None else self.engine.workers()
        ordered = sorted(files, key=reading_order)
        length = min(_FILES_A_BATCH, max(1, len(files) // (8 * max(1, workers))))
        return [
            Batch(
                self.source.kind,
                self.size,
                tuple(ordered[at : at + length]),
                self.journal.new_chunk(),
                self.jpeg2000_reduce,
            )
            for at in range(0, len(ordered), length)
        ]


def _is_current(file: SourceFile, record: Record) -> bool:
    try:
        status = file.path.stat()
    except OSError as error:
        # Not the file's name, which may name a patient.
        raise UserError(
            f"--images: a file that was just listed is gone ({error.strerror}). Bring the folder back and run again; "
            "what is done is kept."
        ) from error
    return (status.st_size, status.st_mtime_ns) == (record.bytes, record.mtime_ns)
