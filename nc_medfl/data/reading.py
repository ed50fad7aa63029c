"""Reading the files of a source: those that need it, in batches, on an engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from nc_medfl.data.engine import Engine, run_batches
from nc_medfl.data.index import Index
from nc_medfl.data.inputs.files import reading_order
from nc_medfl.data.journal import Journal
from nc_medfl.data.records import RecordBook
from nc_medfl.data.sources import SourceData, SourceFile
from nc_medfl.data.worker import Batch, Record, crashed, read_batch
from nc_medfl.errors import UserError

#: Called with files done, files in all, and files by outcome so far. It is told nothing that names a file.
Progress = Callable[[int, int, Mapping[str, int]], None]

_FILES_A_BATCH, _LEAST_A_BATCH = 32, 4


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
        resumed: files that didn't need to be read.
        records: of the files, in their order; where one begins is in memory, the rest on disk.
    """

    source: SourceData
    size: int
    journal: Journal
    engine: Engine | None
    progress: Progress
    jpeg2000_reduce: int = 0
    resumed: int = 0
    records: RecordBook = field(init=False)

    def __post_init__(self) -> None:
        self.records = RecordBook(self.source.files)

    def resume(self, index: Index | None) -> None:
        """Take over records of files that have not changed since, from a store's index and the journal.

        Raises:
            UserError: if a file that was listed is gone.
        """
        known = [] if index is None else [(index.path, index.each())]
        for path, records in (*known, (self.journal.path, self.journal.each())):
            for begin, record in records:
                position = self.records.position(record.name)
                if position is not None and _is_current(self.source.files[position], record):
                    self.records.put(position, path, begin)
        self.resumed = self.records.known()

    def read_rest(self) -> None:
        """Read every file that has no record yet."""
        waiting = [file for position, file in enumerate(self.source.files) if not self.records.has(position)]
        self._read(waiting, self.resumed)

    def read_again(self, positions: Sequence[int]) -> None:
        """Read some files whose record is known and whose pixels are not kept anywhere."""
        self._read([self.source.files[position] for position in positions], len(self.records) - len(positions))

    def close(self) -> None:
        """Close the files on disk."""
        self.records.close()
        self.journal.close()

    def _read(self, waiting: Sequence[SourceFile], done: int) -> None:
        if not waiting:
            return
        total = len(self.source.files)
        outcomes = self._outcomes()
        self.progress(done, total, outcomes)
        batches = self._batches(waiting)
        # Closed at once on an error or Ctrl-C, not when the traceback is forgotten, so that the workers stop.
        with closing(
            run_batches(read_batch, batches, engine=self.engine, split=Batch.singles, crashed=crashed)
        ) as results:
            for records in results:
                for record, begin in zip(records, self.journal.append(records), strict=True):
                    position = self.records.position(record.name)
                    if position is not None:
                        self.records.put(position, self.journal.path, begin)
                outcomes.update(record.outcome for record in records)
                done += len(records)
                self.progress(done, total, outcomes)

    def _outcomes(self) -> Counter[str]:
        records = self.records
        return Counter(records[position].outcome for position in range(len(records)) if records.has(position))

    def _batches(self, files: Sequence[SourceFile]) -> list[Batch]:
        workers = 1 if self.engine is None else self.engine.workers()
        ordered = sorted(files, key=reading_order)
        batches, at = [], 0
        for length in batch_lengths(len(ordered), workers):
            part = tuple(ordered[at : at + length])
            batches.append(Batch(self.source.kind, self.size, part, self.journal.new_chunk(), self.jpeg2000_reduce))
            at += length
        return batches


def batch_lengths(files: int, workers: int) -> list[int]:
    """Files of each batch: finer towards the end, so that no worker waits long for the last of another.

    Few files are cut finer from the beginning, so that all workers have some and the progress moves.

    Args:
        files: how many there are.
        workers: batches that run at once.
    """
    share = 8 * max(1, workers)
    least = max(1, min(_LEAST_A_BATCH, files // share))
    lengths = []
    while files:
        lengths.append(min(files, _FILES_A_BATCH, max(least, files // share)))
        files -= lengths[-1]
    return lengths


def _is_current(file: SourceFile, record: Record) -> bool:
    try:
        status = file.path.stat()
    except PermissionError:
        return False  # reading it will tell
    except OSError as error:
        # Not the file's name, which may name a patient.
        raise UserError(
            f"--images: a file that was just listed is gone ({error.strerror}). Bring the folder back and run again; "
            "what is done is kept."
        ) from error
    return (status.st_size, status.st_mtime_ns) == (record.bytes, record.mtime_ns)
