"""What a query found so far, on disk, so that an interrupted fetch asks and fetches nothing twice."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from nc_medfl.data.private import open_private


@dataclass(frozen=True)
class Study:
    """A study that matches; ``unknown`` are attributes whose filter its answer did not settle.

    ``series`` is how many series it is said to have.
    """

    uid: str
    unknown: tuple[str, ...] = ()
    series: int | None = None


@dataclass(frozen=True)
class Instance:
    """An instance to be fetched; ``unknown`` as in :class:`Study`, to be settled by its own header."""

    study: str
    series: str
    sop: str
    unknown: tuple[str, ...] = ()


@dataclass
class Plan:
    """A query's findings, backed by a file of JSON lines that only its owner can read.

    Attributes:
        path: the file.
        asked: positions of the study queries that are answered.
        studies: the studies found, by UID.
        listed: studies whose instances are known.
        instances: what is to be fetched, by SOP Instance UID.
        unwanted: instances whose own header speaks against them.
    """

    path: Path
    asked: set[int] = field(default_factory=set)
    studies: dict[str, Study] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    instances: dict[str, Instance] = field(default_factory=dict)
    unwanted: set[str] = field(default_factory=set)
    _stream: BinaryIO | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path) -> Plan:
        """The plan of a file, empty if there is none. A line cut short by a crash is left out."""
        plan = cls(path)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        for line in lines:
            with suppress(ValueError, TypeError, KeyError):
                plan._take(json.loads(line))
        # A line cut short must not swallow the next.
        plan._stream = open_private(path, append=True)
        plan._stream.write(b"\n")
        return plan

    def found(self, query: int, studies: list[Study]) -> None:
        """Note the answer to a study query."""
        self._note({"query": query, "studies": [[s.uid, s.series, *s.unknown] for s in studies]})

    def expanded(self, study: str, instances: list[Instance]) -> None:
        """Note the instances of a study."""
        self._note({"study": study, "instances": [[i.series, i.sop, *i.unknown] for i in instances]})

    def reject(self, sop: str) -> None:
        """Note that an instance, fetched, was not one that was asked for."""
        self._note({"unwanted": sop})

    def sync(self) -> None:
        """Return when all that was noted is on disk."""
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        stream, self._stream = self._stream, None
        if stream is not None:
            # What a full disk refused has been told already, or is asked again.
            with suppress(OSError):
                stream.close()

    def _note(self, event: dict[str, Any]) -> None:
        self._take(event)
        if self._stream is not None:
            self._stream.write(json.dumps(event).encode() + b"\n")
            # Out of this process, so that its death takes nothing along.
            self._stream.flush()

    def _take(self, event: dict[str, Any]) -> None:
        if "unwanted" in event:
            self.unwanted.add(event["unwanted"])
        elif "query" in event:
            for uid, series, *unknown in event["studies"]:
                self.studies.setdefault(uid, Study(uid, tuple(unknown), series))
            self.asked.add(event["query"])
        else:
            for series, sop, *unknown in event["instances"]:
                self.instances.setdefault(sop, Instance(event["study"], series, sop, tuple(unknown)))
            self.listed.add(event["study"])
